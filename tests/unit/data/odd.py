"""Video files in odd forms, as tiny as they can be."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.decoders import own_priority
from ray_distill.data.read import video
from ray_distill.data.read.clip import Video
from ray_distill.data.read.container import PIXELS


def picture(number: int, height: int = 96, width: int = 128) -> np.ndarray:
    """A picture with a red corner at the top left, and green below it; the right half's level counts the frames, 8
    apart."""
    frame = np.full((height, width, 3), 8 * number % 240, np.uint8)
    frame[: height // 2, : width // 2] = (200, 30, 30)
    frame[height // 2 :, : width // 2] = (30, 170, 60)
    return frame


def counted(frames: np.ndarray) -> list[int]:
    """The numbers of the pictures in uint8 [T, H, W, 3]."""
    return [round(float(frame[:, 3 * frame.shape[1] // 4 :].mean()) / 8) for frame in frames]


def probe(path: str, limit: int = PIXELS) -> Video:
    """The facts of a file, from all its packets; BadClip as `look` raises it."""
    header, packets = video._scan(path, None, limit)
    return header if packets else video._lasting(header, video._decode_times(path, None, limit))


def write(
    path: Path,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    frames: int = 12,
    size: tuple[int, int] = (96, 128),
    rate: Any = 8,
    milliseconds: list[int] | None = None,
    turn: int = 0,
    **context: Any,
) -> Path:
    """Write a file of ``picture``s. ``milliseconds`` are their times, ``turn`` the degrees (anticlockwise) by which a
    player must turn it, ``context`` further attributes of the codec's context."""
    options = {"libx265": {"x265-params": "log-level=none"}, "libsvtav1": {"preset": "12"}}.get(codec, {})
    with own_priority(), av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        if milliseconds:
            stream.codec_context.time_base = Fraction(1, 1000)
        if turn:
            stream.set_display_rotation(turn)
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
            if milliseconds:
                frame.pts, frame.time_base = milliseconds[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
