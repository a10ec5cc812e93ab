"""Choose the frames of a file that make a clip."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

REMEDY = "lower data.frames or data.stride, or drop it"


class BadClip(ValueError):
    """Error: the clip at ``path`` cannot be used, for ``reason``. The clip is left out, and the run goes on."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both in args: the error survives pickling between Ray workers
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Video:
    """Facts of a file, from its header and first frame. ``width`` and ``height`` are those of the upright picture, in
    the file's pixels; ``pixel_aspect`` = width / height of one pixel. To make a frame upright, mirror it left to right
    if ``mirrored``, then turn it anticlockwise by ``quarter_turns``."""

    width: int
    height: int
    pixel_aspect: float
    quarter_turns: int
    mirrored: bool
    plain: bool
    """True where decord gives the same frames as PyAV (docs/data.md)."""
    frames: int
    """Number of frames of the file, or up to the end of the last clip that ``look`` scanned for; 0 where only a decode
    from the start can count them."""
    seconds: float
    """Seconds from the start of the first frame to the end of the last."""
    tick: float
    """Seconds of the unit in which the file counts time."""
    rate: float
    """Frames per second, from the header."""

    @property
    def square_size(self) -> tuple[float, float]:
        """(height, width) in square pixels."""
        return self.height, self.width * self.pixel_aspect


@dataclass(frozen=True)
class Times:
    """Start times of a file's frames: ``marks`` int64 [frames], never falling, in units of ``tick`` seconds."""

    marks: np.ndarray
    tick: Fraction

    @property
    def frames(self) -> int:
        return len(self.marks)

    @property
    def seconds(self) -> float:
        """Seconds from the first frame to the end of the last, which lasts as long as the median of the others."""
        if len(self.marks) < 2:
            return 0.0
        return float(int(self.marks[-1] - self.marks[0]) + np.median(np.diff(self.marks))) * float(self.tick)


@dataclass(frozen=True)
class Seek:
    """The frames of a clip within its file. A decoder begins at the key frame at ``start`` (a time in the file's ticks;
    None for the file's first frame), and ``numbers`` count frames from there in display order. ``before`` is the number
    of the file's frames before that key frame. ``first`` and ``last`` are the times of the clip's first and last
    frame."""

    start: int | None
    before: int
    numbers: tuple[int, ...]
    first: int
    last: int


@dataclass(frozen=True)
class Cut:
    """Choice of a clip's frames: ``frames`` frames, every ``stride``-th one, of the file resampled to ``fps``, or of
    the file's own frames where ``fps`` is None. ``number`` counts the clips of a file, which follow each other."""

    frames: int
    stride: int = 1
    fps: float | None = None
    number: int = 0

    def __post_init__(self) -> None:
        if self.frames < 1 or self.stride < 1:
            raise ValueError(f"frames and stride must be at least 1, got frames={self.frames}, stride={self.stride}")

    @property
    def numbers(self) -> np.ndarray:
        """Numbers int64 [frames] among the file's own frames, or among its frames at ``fps``."""
        return self.stride * (self.number * self.frames + np.arange(self.frames))

    def due(self, tick: Fraction | float) -> np.ndarray:
        """Latest times float64 [frames], in ticks after the file's first frame, at which the clip's frames may begin;
        for a cut with ``fps``.

        The frame at time t is the last one that begins before t + 1 / (2 fps): FFmpeg's fps filter rounds so. A file
        knows its times only to a tick (Matroska: 1 ms), so that a frame less than a tick before this limit counts as on
        the limit: 30 frames per second become 15 by taking every second frame. Ticks above 1 ms are whole frames and
        count as exact.
        """
        assert self.fps is not None, "frames that come as they are have no rate"
        return np.maximum((self.numbers + 0.5) / (self.fps * float(tick)) - self._slack(tick), 0.0)

    def _slack(self, tick: Fraction | float) -> float:
        assert self.fps is not None
        if tick > 0.001:
            return 1e-6 / float(tick)
        return min(1.0, 0.25 / (self.fps * float(tick))) - 1e-3

    def pick(self, path: str, times: Times) -> np.ndarray:
        """Numbers int64 [frames] of the file's own frames that form the clip; BadClip where the file is too short."""
        numbers, frames = self.numbers, self._frames(times)
        if numbers[-1] >= frames:
            if self.fps is None:
                raise BadClip(path, f"has {frames} frames and {numbers[-1] + 1} are needed; {REMEDY}")
            seconds = (numbers[-1] + 1) / self.fps
            raise BadClip(
                path, f"lasts {times.seconds:.3g} s and {seconds:.3g} s are needed at {self.fps:g} fps; {REMEDY}"
            )
        if self.fps is None:
            return numbers
        return np.searchsorted(times.marks - times.marks[0], self.due(times.tick), side="right") - 1

    def count(self, file: Video | Times) -> int:
        """Number of these clips that follow each other in a file, at least 1."""
        span = (self.frames - 1) * self.stride + 1
        return 1 + max(0, self._frames(file) - span) // (self.frames * self.stride)

    def _frames(self, file: Video | Times) -> int:
        """Number of the file's frames; with ``fps`` the number after resampling, at least 1 unless the file has
        none."""
        if self.fps is None or file.frames == 0:
            return file.frames
        lasts = file.seconds + 1.5 * self._slack(file.tick) * float(file.tick)
        return max(1, int(lasts * self.fps + 0.5))
