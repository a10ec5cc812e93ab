"""Which frames of a file make a clip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

REMEDY = "lower data.frames or data.stride, or drop it"


class BadClip(ValueError):
    """A clip that cannot be used: ``path`` and ``reason``. It costs this clip and never the run."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both in args: the error survives pickling between Ray workers
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Video:
    """What a file's header and first frame say: ``width`` and ``height`` as stored after the turn that the file asks
    for, ``pixel_aspect`` = width / height of a pixel, ``seconds`` and ``rate`` (0 where the header is silent)."""

    width: int
    height: int
    pixel_aspect: float
    quarter_turns: int
    plain: bool
    """8 bits a colour and no AVI: decord's colours of more bits and its frames of some AVI files are wrong."""
    seconds: float
    rate: float

    @property
    def shown(self) -> tuple[float, float]:
        """Height and width in square pixels."""
        return self.height, self.width * self.pixel_aspect


@dataclass(frozen=True)
class Cut:
    """Which frames of a file make a clip: ``frames`` of them, each ``stride``-th, at ``fps`` where it is given, else
    as they come; clip ``number`` of those that follow each other."""

    frames: int
    stride: int = 1
    fps: float | None = None
    number: int = 0

    def pick(self, path: str, times: np.ndarray) -> np.ndarray:
        """Indices [frames] into a file's frames, which are shown from ``times`` (seconds) on; BadClip if too short.

        At a rate the frame of time t is the last that is shown before t + 1 / (2 fps), as FFmpeg's fps filter rounds.
        """
        wanted = self.stride * (self.number * self.frames + np.arange(self.frames))
        if self.fps is None:
            if wanted[-1] >= len(times):
                raise BadClip(path, f"has {len(times)} frames and {wanted[-1] + 1} are needed; {REMEDY}")
            return wanted
        if len(times) == 0:
            raise BadClip(path, "has no frames")
        shown = times - times[0]
        end = shown[-1] + (float(np.median(np.diff(shown))) if len(shown) > 1 else 0.0)
        due = (wanted + 0.5) / self.fps
        if due[-1] > end + 1e-6 and wanted[-1] > 0:
            needed = (wanted[-1] + 1) / self.fps
            raise BadClip(path, f"lasts {end:.3g} s and {needed:.3g} s are needed at {self.fps:g} fps; {REMEDY}")
        return np.searchsorted(shown, due - 1e-6) - 1

    def count(self, video: Video) -> int:
        """How many such clips follow each other in a file, by its header; at least 1."""
        frames = int(video.seconds * (self.fps or video.rate) + 0.5)
        span = (self.frames - 1) * self.stride + 1
        return 1 + max(0, frames - span) // (self.frames * self.stride)
