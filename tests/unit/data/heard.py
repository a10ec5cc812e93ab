"""Video files with sound: a white frame and a click at the same time."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

FPS = 24


def click(seconds: float, at: float | None, rate: int = 48_000, channels: int = 2) -> np.ndarray:
    """Sound float32 [channels, samples], with a click of a millisecond at the second ``at``; quiet noise elsewhere, so
    that an encoder has something to write."""
    sound = np.random.default_rng(0).uniform(-1e-3, 1e-3, (channels, round(seconds * rate))).astype(np.float32)
    if at is not None:
        sound[:, round(at * rate) : round((at + 0.001) * rate)] = 0.9
    return sound


def write(
    path: Path,
    sound: np.ndarray | None = None,
    codec: str = "aac",
    rate: int = 48_000,
    white: int = 10,
    frames: int = 30,
    size: tuple[int, int] = (64, 96),
    milliseconds: list[int] | None = None,
    begins: float = 0.0,
    video: str = "libx264",
    **options: Any,
) -> Path:
    """Write ``frames`` black frames of which the one numbered ``white`` is white, and ``sound``, whose first sample is
    heard at the second ``begins``. ``milliseconds`` are the frames' times, 24 a second by default."""
    with av.open(str(path), "w", **options) as container:
        pictures = container.add_stream(video, rate=FPS)
        pictures.height, pictures.width, pictures.pix_fmt = *size, "yuv420p"
        if milliseconds:
            pictures.codec_context.time_base = Fraction(1, 1000)
        layout = {1: "mono", 2: "stereo", 6: "5.1"}[1 if sound is None else len(sound)]
        heard = None if sound is None else container.add_stream(codec, rate=rate, layout=layout)
        for number in range(frames):
            picture = np.full((*size, 3), 255 * (number == white), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if milliseconds:
                frame.pts, frame.time_base = milliseconds[number], Fraction(1, 1000)
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode())
        if sound is not None and heard is not None:
            whole = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), format="fltp", layout=layout)
            whole.sample_rate, whole.pts, whole.time_base = rate, round(begins * rate), Fraction(1, rate)
            form = heard.codec_context.format.name
            for one in av.AudioResampler(format=form, layout=layout, rate=rate).resample(whole):
                container.mux(heard.encode(one))
            container.mux(heard.encode())
    return path
