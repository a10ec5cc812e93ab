"""Video files to frames and back. Torch-free, so that decode workers start fast.

A reader lives for one call: decord readers that are shared by threads return wrong frames without an error,
and open, idle ones read ahead without bound. Files are only ever read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from ray_distill.data.cut import BadClip, Cut, Video

try:
    import decord
except ImportError:  # it has no wheels for some platforms; PyAV then reads everything
    decord = None

CHUNK = 4 << 20
"""Bytes of decoded frames that are in memory before they are resized: so few that the allocator keeps them for the next
chunk. Pages that went back to the kernel would cost faults when they come again (docs/benchmarks.md)."""
AHEAD = 320 << 20
"""Bytes that decord may read ahead: it decodes to the next key frame, as a rule 250 frames, whatever is asked for."""
HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics, ITU-T H.273
BROKEN = (av.FFmpegError, OSError, ValueError, MemoryError)
"""What PyAV raises on files that are damaged or lie about their size."""


@dataclass(frozen=True)
class Clip:
    """``frames`` uint8 RGB [T, H, W, 3] and the ``decoder`` that gave them, "decord" or "pyav"."""

    frames: np.ndarray
    decoder: str


def probe(path: str) -> Video:
    """The header and the first frame of a file; BadClip where it is missing, broken, or no video that can be used."""
    if not os.path.isfile(path):
        raise BadClip(path, "no such file" if not os.path.lexists(path) else "no regular file")
    try:
        with av.open(path) as container:
            stream = _stream(path, container)
            frame = next(container.decode(stream), None)
            if frame is None:
                raise BadClip(path, "cannot be decoded: it has no frame")
            context = stream.codec_context
            if context.color_trc in HDR:
                raise BadClip(path, f"is HDR ({HDR[context.color_trc]}); convert it to SDR first")
            turns = round(frame.rotation / 90) % 4
            aspect = float(stream.sample_aspect_ratio or 1) or 1.0
            size, aspect = (
                ((frame.height, frame.width), 1 / aspect) if turns % 2 else ((frame.width, frame.height), aspect)
            )
            duration = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
            return Video(
                *size,
                pixel_aspect=aspect,
                quarter_turns=turns,
                plain=max(part.bits for part in frame.format.components) == 8 and container.format.name != "avi",
                seconds=duration or (container.duration or 0) / av.time_base,
                rate=float(stream.average_rate or stream.guessed_rate or 0),
            )
    except BadClip:
        raise
    except BROKEN as error:
        raise _damaged(path, 0, error) from error


def read_clip(
    path: str,
    cut: Cut,
    fit: Callable[[np.ndarray, Video], np.ndarray] = lambda frames, video: frames,
    video: Video | None = None,
    out: np.ndarray | None = None,
) -> Clip:
    """The frames of ``cut``, turned upright, each passed through ``fit``, so that few of the file's size are in memory.
    ``video`` is what ``probe`` said of the file, if it was asked before; ``out`` takes the frames, if it is given.

    decord first, but for large frames and for what it reads wrong without an error; where it is missing or fails (it
    does on some small widths, and knows no AV1), PyAV has the last word. Raises BadClip for a file that is missing,
    broken or too short.
    """
    if cut.frames < 1 or cut.stride < 1:
        raise ValueError(f"frames and stride must be at least 1, got frames={cut.frames}, stride={cut.stride}")
    if video is None or not os.path.isfile(path):
        video = probe(path)
    if decord is not None and video.plain and 250 * 3 * video.width * video.height <= AHEAD:
        try:
            return Clip(_joined((fit(chunk, video) for chunk in _decord(path, cut, video)), cut.frames, out), "decord")
        except (decord.DECORDError, RuntimeError, IndexError, BadClip):  # odd, broken or too short: PyAV tells which
            pass
    return Clip(_joined((fit(chunk, video) for chunk in _pyav(path, cut, video)), cut.frames, out), "pyav")


def _joined(chunks: Iterator[np.ndarray], frames: int, out: np.ndarray | None) -> np.ndarray:
    """One array, made before the second chunk comes: small chunks that are kept between large frames that are freed
    would leave holes in the heap, a large frame's size for each (4 MiB a frame of 720p)."""
    first = next(chunks)
    whole = np.empty((frames, *first.shape[1:]), dtype=first.dtype) if out is None else out
    whole[: len(first)], place = first, len(first)
    del first
    for chunk in chunks:
        whole[place : place + len(chunk)] = chunk
        place += len(chunk)
    assert place == frames, f"{place} of {frames} frames"
    return whole


def write_clip(path: str | Path, frames: np.ndarray, fps: float, crf: int = 18) -> None:
    """Writes uint8 RGB [T, H, W, 3] as h264 mp4 (yuv420p, so H and W must be even); atomic: whole or not there."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
        raise ValueError(f"{path}: frames must be uint8 [T, H, W, 3] with T > 0, got {frames.dtype} {frames.shape}")
    _, height, width, _ = frames.shape
    if height % 2 or width % 2:
        raise ValueError(f"{path}: yuv420p needs an even height and width, got {height}x{width}; crop or pad by one")
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with av.open(str(temporary), "w", format="mp4") as container:
            # Equal frames, equal files: x264's output depends on its number of threads, and its macroblock tree reads
            # memory that nothing has written.
            options = {"crf": str(crf), "threads": "1", "x264-params": "mbtree=0"}
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            container.mux(stream.encode())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _decord(path: str, cut: Cut, video: Video) -> Iterator[np.ndarray]:
    """Chunks uint8 [n, H, W, 3]; decord turns frames upright itself."""
    reader = decord.VideoReader(path, num_threads=1)
    try:
        indices = cut.pick(path, reader.get_frame_timestamp(range(len(reader)))[:, 0]).tolist()
        size = max(1, CHUNK // (3 * video.width * video.height))
        for start in range(0, len(indices), size):
            yield reader.get_batch(indices[start : start + size]).asnumpy()
    finally:
        del reader


def _pyav(path: str, cut: Cut, video: Video) -> Iterator[np.ndarray]:
    """Single frames uint8 [1, H, W, 3]."""
    place, colours = 0, VideoReformatter()
    try:
        with av.open(path) as container:
            marks, seconds = _marks(container, _stream(path, container), video)
        indices = cut.pick(path, seconds)
        for number, frame in _numbered(path, marks, int(indices[0])):
            if frame.is_corrupt and number >= indices[0]:
                raise BadClip(path, f"frame {number} is damaged")
            while place < len(indices) and number == indices[place]:  # a slow file shows a frame more than once
                yield np.rot90(colours.reformat(frame, format="rgb24").to_ndarray(), video.quarter_turns)[None]
                place += 1
            if place == len(indices):
                return
    except BadClip:
        raise
    except BROKEN as error:
        raise _damaged(path, place, error) from error
    raise BadClip(path, f"cannot be decoded to its end: {place} of {len(indices)} frames came")


def _numbered(path: str, marks: np.ndarray | None, first: int) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames with their numbers, from a key frame before number ``first`` on."""
    numbers = {} if marks is None else {int(mark): number for number, mark in enumerate(marks)}
    # A key frame may be one that frames before it refer to: then from an earlier one, in the end from the start.
    for target in (first, max(0, first - 100), 0):
        with av.open(path) as container:
            stream = _stream(path, container)
            if seeks := marks is not None and target > 0:
                container.seek(int(marks[target]), stream=stream)
            for seen, frame in enumerate(container.decode(stream)):
                number = seen if marks is None else -1 if frame.pts is None else numbers.get(frame.pts, -1)
                if seeks and seen == 0 and number > first:
                    break
                yield number, frame
            else:
                return


def _marks(
    container: av.container.InputContainer, stream: av.VideoStream, video: Video
) -> tuple[np.ndarray | None, np.ndarray]:
    """Presentation times of all frames, in the stream's own unit and in seconds, without decoding one.

    None where the container has none: frames are then counted, at the rate of the header. AVI claims to have them, but
    they are those of decoding, which is another order.
    """
    # No list of packets: that would be the whole file.
    told = [packet.pts for packet in container.demux(stream) if packet.size and not packet.is_discard]
    marks = sorted(pts for pts in told if pts is not None)
    if len(marks) < len(told) or container.format.name == "avi":
        return None, np.arange(len(told)) / (video.rate or 1)
    return np.array(marks, dtype=np.int64), np.array(marks) * float(stream.time_base or 1)


def _stream(path: str, container: av.container.InputContainer) -> av.VideoStream:
    pictures = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & pictures]
    if not streams:
        raise BadClip(path, "the file has no video stream")
    return streams[0]


def _damaged(path: str, seen: int, error: BaseException) -> BadClip:
    told = getattr(error, "strerror", None) or error  # without the path, which is said already
    return BadClip(path, f"cannot be decoded after {seen} frames ({type(error).__name__}: {told})")
