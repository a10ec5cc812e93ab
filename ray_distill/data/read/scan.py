"""Scan a file's packets once for times and key frames, without decoding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from ray_distill.data.read.clip import BadClip, Cut, Seek, Times
from ray_distill.data.read.container import MATROSKA, MOV
from ray_distill.data.read.keyframes import CODECS, begins, hidden


@dataclass(frozen=True)
class Scan:
    """Times and key frames of a file: ``times`` of all frames, or of the frames up to the end of the last clip, and
    ``starts``, the times of the key frames from which a decoder may begin."""

    times: Times
    starts: np.ndarray
    closed: bool
    """True where all packets were read, each shows a frame at a time of its own, and ``starts`` has every key frame."""

    def seek(self, path: str, cut: Cut) -> Seek:
        """The place of the frames of ``cut`` within the file; BadClip where the file is too short."""
        numbers, marks = cut.pick(path, self.times), self.times.marks
        first, last = int(marks[numbers[0]]), int(marks[numbers[-1]])
        start = int(self.starts[np.searchsorted(self.starts, first, side="right") - 1])
        before = int(np.searchsorted(marks, start))
        return Seek(start if before else None, before, tuple(numbers.tolist()), first, last)


def seekable(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """True where packets identify a file's frames: the container stores their times, and we can tell which key frames
    of the codec are clean. All other files need a decode from the start."""
    return container.format.name in (MOV, MATROSKA) and stream.codec.canonical_name in CODECS


def scan(stream: av.VideoStream, packets: Iterable[av.Packet], last: Cut | None) -> Scan | None:
    """Times and key frames that the ``packets`` of a seekable stream announce, up to the end of the clip ``last`` or of
    the file; None where the packets do not identify the frames."""
    codec, extradata = stream.codec.canonical_name, bytes(stream.codec_context.extradata or b"")
    tick = Fraction(stream.time_base or 1)
    marks: list[int] = []
    starts: list[int] = []
    sets: list[list[bytes]] = []
    keys = discarded = count = 0
    latest, check, ended = -(1 << 63), 256, True
    for packet in packets:
        if not packet.size:
            continue
        pts, count = packet.pts, count + 1
        if pts is None:
            return None
        if packet.is_keyframe:
            keys += 1
            with_sets: list[bytes] = []
            clean = begins(codec, memoryview(packet), extradata, with_sets)
            sets += [with_sets] if with_sets else []
            if packet.has_sidedata("new_extradata") or (sets and with_sets not in ([], sets[0])):
                return None  # a decoder that begins later would miss earlier parameters
            if clean and pts > latest:
                starts.append(pts)
        if count == 1 and starts != [pts]:
            return None
        if pts < starts[0]:
            return None  # this frame may refer to a frame that is not in the file
        latest = max(latest, pts)
        if packet.is_discard or hidden(codec, memoryview(packet)):
            discarded += 1
        else:
            marks.append(pts)
            if last and len(marks) == check and packet.dts is not None:
                check *= 2
                if _reaches(marks, packet.dts, tick, last):
                    ended = False
                    break
    if not marks:
        return None
    times = Times(np.sort(np.array(marks, dtype=np.int64)), tick)
    own = len(np.unique(times.marks)) == len(marks)
    return Scan(times, np.array(starts, dtype=np.int64), ended and own and not discarded and keys == len(starts))


def _reaches(marks: list[int], now: int, tick: Fraction, last: Cut) -> bool:
    """True where the frames before ``now``, all of which are known, contain the ``last`` clip and one frame after
    it."""
    settled = np.sort(np.array([mark for mark in marks if mark < now], dtype=np.int64))
    if len(settled) < 2:
        return False
    try:
        return bool(last.pick("", Times(settled, tick))[-1] < len(settled) - 1)
    except BadClip:
        return False
