"""Decode a clip's frames by PyAV, from a clean key frame or from the file's start."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from ray_distill.data.read.clip import BadClip, Cut, Seek, Times, Video
from ray_distill.data.read.container import check_moment, check_size, open_video

DEEP = re.compile(r"yuva?(4\d\dp)(?:9|10|12|14|16)(?:le|be)|(gray)(?:9|10|12|14|16)(?:le|be)|p0?(?:10|12|16)(?:le|be)")
"""FFmpeg's names of YUV and grey formats with more than 8 bits."""


class Drift(Exception):
    """Error: the decoder's frames differ from those that the packets announced."""


def seek_frames(path: str, seek: Seek, video: Video, limit: int) -> Iterator[np.ndarray]:
    """Frames uint8 [1, H, W, 3] of ``seek``. Drift where the decoder gives other frames than the packets announced."""
    with open_video(path, limit) as (container, stream):
        yield from _pictures(_frames_by_number(path, container, stream, seek), video, limit, path)


def decode_from_start(path: str, cut: Cut, video: Video, limit: int) -> Iterator[np.ndarray]:
    """Frames uint8 [1, H, W, 3] of ``cut``, decoded from the file's start, where the frames themselves carry their
    times."""
    with open_video(path, limit, probed=True) as (container, stream):
        yield from _pictures(_frames_of(path, cut, *frames_with_times(container, stream)), video, limit, path)


def frames_with_times(
    container: av.container.InputContainer, stream: av.VideoStream
) -> tuple[Iterator[tuple[av.VideoFrame, int]], Fraction]:
    """(all frames, decoded from the file's start, each with its time in ticks; the seconds of a tick).

    AVI stores decoding times alone: there the n-th shown frame takes the n-th decoding time. A frame without a time
    follows the frame before it at the header's rate.
    """
    tick = Fraction(stream.time_base or 1)
    step = max(1, round(1 / (Fraction(stream.average_rate or stream.guessed_rate or 1) * tick)))

    def frames() -> Iterator[tuple[av.VideoFrame, int]]:
        stored: deque[int] = deque()
        last, avi = -step, container.format.name == "avi"
        for packet in container.demux(stream):
            if avi and packet.size and packet.dts is not None:
                stored.append(packet.dts)
            for frame in packet.decode():
                mark = (stored.popleft() if stored else None) if avi else frame.pts
                last = last + step if mark is None else mark
                yield frame, last

    return frames(), tick


def _frames_by_number(
    path: str, container: av.container.InputContainer, stream: av.VideoStream, seek: Seek
) -> Iterator[av.VideoFrame]:
    """Yield the frames of ``seek``; Drift or BadClip where one is not as the packets announced, or is damaged."""
    place, broken, latest = 0, False, -(1 << 63)
    for number, frame in enumerate(_from(container, stream, seek.start), seek.before):
        broken = frame.is_corrupt or (broken and not frame.key_frame)
        if frame.pts is None or frame.pts < latest or (number == seek.numbers[0] and frame.pts != seek.first):
            raise Drift
        latest = frame.pts
        if number < seek.numbers[place]:
            continue
        if broken:
            raise BadClip(path, f"frame {number} is damaged")
        if number == seek.numbers[-1] and frame.pts != seek.last:
            raise Drift
        while place < len(seek.numbers) and number == seek.numbers[place]:  # resampling to a higher rate repeats frames
            yield frame
            place += 1
        if place == len(seek.numbers):
            return
    raise Drift


def _from(container: av.container.InputContainer, stream: av.VideoStream, start: int | None) -> Iterator[av.VideoFrame]:
    """Frames from the time ``start`` on; the decoder sees no packet before the one of that time."""
    if start is None:
        yield from container.decode(stream)
        return
    # An index may lead behind ``start``: then read all packets from the beginning, and decode from ``start``.
    for seeks in (True, False):
        container.seek(start if seeks else 0, stream=stream if seeks else None, any_frame=False)
        packets = container.demux(stream)
        for packet in packets:
            if packet.size and packet.is_keyframe and packet.pts == start:
                for one in chain([packet], packets):
                    yield from (frame for frame in one.decode() if frame.pts is None or frame.pts >= start)
                return
            if seeks and packet.dts is not None and packet.dts > start:
                break
    raise Drift


def _frames_of(
    path: str, cut: Cut, frames: Iterator[tuple[av.VideoFrame, int]], tick: Fraction
) -> Iterator[av.VideoFrame]:
    """The frames of ``cut`` among all ``frames`` from the file's start."""
    numbers, place, broken = cut.numbers, 0, False
    due = None if cut.fps is None else cut.due(tick)
    marks: list[int] = []
    previous: tuple[av.VideoFrame, bool] | None = None
    for frame, mark in frames:
        broken = frame.is_corrupt or (broken and not frame.key_frame)
        if due is None:
            if len(marks) == numbers[place]:
                yield _whole(path, frame, broken, len(marks))
                place += 1
        else:
            if marks and mark < marks[-1]:
                reason = f"its clock goes back at frame {len(marks)}; cut it there, or set data.resample=false"
                raise BadClip(path, reason)
            while previous and place < len(due) and mark - (marks or [mark])[0] > due[place]:
                yield _whole(path, *previous, len(marks) - 1)
                place += 1
            previous = frame, broken
        if place == len(numbers):
            return
        marks.append(mark)
    cut.pick(path, Times(np.array(marks, dtype=np.int64), tick))  # raises BadClip where the file is too short
    assert previous is not None, "frames as they come were all found"
    for _ in range(place, len(numbers)):
        yield _whole(path, *previous, len(marks) - 1)


def _whole(path: str, frame: av.VideoFrame, broken: bool, number: int) -> av.VideoFrame:
    if broken:
        raise BadClip(path, f"frame {number} is damaged")
    return frame


def _pictures(frames: Iterator[av.VideoFrame], video: Video, limit: int, path: str) -> Iterator[np.ndarray]:
    """Upright RGB uint8 [1, H, W, 3] of each of ``frames``. A caller deletes each picture before it takes the next,
    which then reuses the memory: fresh pages would cost more than the conversion."""
    colours, eight = VideoReformatter(), VideoReformatter()
    size: tuple[int, int] | None = None
    for frame in frames:
        if size is None:
            size = frame.width, frame.height
            check_size(path, *size, limit)
        elif size != (frame.width, frame.height):
            reason = f"its size changes from {size[0]}x{size[1]} to {frame.width}x{frame.height}"
            raise BadClip(path, f"{reason} within the clip; cut it there")
        check_moment(path, frame)
        yield _upright(_rgb(frame, colours, eight)[None], video)


def _rgb(frame: av.VideoFrame, colours: VideoReformatter, eight: VideoReformatter) -> np.ndarray:
    """The frame as RGB uint8 [H, W, 3], by swscale's default flags. Formats with more than 8 bits are first converted
    to 8 bits: swscale rounds their direct conversion to RGB differently, and frames would be darker than the same
    picture in 8 bits."""
    deep = DEEP.fullmatch(frame.format.name)
    if deep:
        planar = "gray" if deep[2] else f"yuv{deep[1] or '420p'}"
        span = frame.color_range
        frame = eight.reformat(frame, format=planar, src_color_range=span, dst_color_range=span, threads=1)
    rgb = colours.reformat(frame, format="rgb24", threads=1)
    plane: Any = rgb.planes[0]
    rows = np.frombuffer(plane, dtype=np.uint8).reshape(rgb.height, plane.line_size)
    return rows[:, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3)


def _upright(frames: np.ndarray, video: Video) -> np.ndarray:
    if video.mirrored:
        frames = frames[:, :, ::-1]
    return np.rot90(frames, video.quarter_turns, axes=(1, 2)) if video.quarter_turns else frames
