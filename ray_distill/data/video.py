"""Video files to frames and back. Torch-free, so that decode workers start fast.

A reader lives for one call: decord readers that are shared by threads return wrong frames without an error,
and open, idle ones read ahead without bound.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

try:
    import decord
except ImportError:  # it has no wheels for some platforms; PyAV then reads everything
    decord = None


class BadClip(ValueError):
    """A clip that cannot be used: ``path`` and ``reason``. It costs this clip and never the run."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both in args: the error survives pickling between Ray workers
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Clip:
    """``frames`` uint8 RGB [T, H, W, 3] and the ``decoder`` that gave them, "decord" or "pyav"."""

    frames: np.ndarray
    decoder: str


def read_clip(path: str, frames: int, stride: int = 1) -> Clip:
    """Frames 0, stride, 2 stride, ... of a video file, ``frames`` of them.

    decord first; where it is missing or fails (it does on some small widths), PyAV has the last word.
    Raises BadClip for a file that is missing, broken or too short.
    """
    if frames < 1 or stride < 1:
        raise ValueError(f"frames and stride must be at least 1, got frames={frames}, stride={stride}")
    if not os.path.isfile(path):
        raise BadClip(path, "no such file")
    indices = range(0, frames * stride, stride)
    if decord is not None:
        try:
            return Clip(_decord_frames(path, indices), "decord")
        except (decord.DECORDError, RuntimeError, IndexError):  # broken, odd or too short: PyAV tells which
            pass
    return Clip(_pyav_frames(path, indices), "pyav")


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
            # x264's output depends on its number of threads: with one, a file is the same on every machine.
            options = {"crf": str(crf), "threads": "1"}
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            container.mux(stream.encode())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _decord_frames(path: str, indices: range) -> np.ndarray:
    reader = decord.VideoReader(path, num_threads=1)
    try:
        return reader.get_batch(list(indices)).asnumpy()
    finally:
        del reader


def _pyav_frames(path: str, indices: range) -> np.ndarray:
    wanted: list[np.ndarray] = []
    seen = 0
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise BadClip(path, "the file has no video stream")
            for seen, frame in enumerate(container.decode(video=0), start=1):
                if seen - 1 in indices:
                    wanted.append(frame.to_ndarray(format="rgb24"))
                if len(wanted) == len(indices):
                    return np.stack(wanted)
    except (av.FFmpegError, OSError) as error:
        raise BadClip(path, f"cannot be decoded after {seen} frames ({type(error).__name__}: {error})") from error
    raise BadClip(path, f"has {seen} frames and {indices[-1] + 1} are needed; lower data frames or stride, or drop it")
