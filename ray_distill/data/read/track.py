"""Sound of a clip, and the audio stream of an mp4; without torch."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

LAYOUTS = {1: "mono", 2: "stereo"}


@dataclass(frozen=True)
class Track:
    """Sound: ``samples`` float32 [channels, n] in [-1, 1] at ``rate`` samples per second; ValueError for another
    shape."""

    samples: np.ndarray
    rate: int

    def __post_init__(self) -> None:
        if self.samples.ndim != 2 or len(self.samples) not in LAYOUTS or self.samples.dtype != np.float32:
            raise ValueError(
                f"sound must be float32 [1 or 2 channels, samples], got {self.samples.dtype} {self.samples.shape}"
            )

    def stream(self, container: av.container.OutputContainer) -> av.AudioStream:
        """Add an AAC stream to ``container``."""
        return container.add_stream("aac", rate=self.rate, layout=LAYOUTS[len(self.samples)])

    def mux(self, container: av.container.OutputContainer, stream: av.AudioStream) -> None:
        """Encode all samples into ``stream``; the encoder cuts them into its own frames. Without a time the sound would
        begin late by the encoder's delay, 1024 samples of AAC."""
        samples = np.ascontiguousarray(self.samples.clip(-1, 1))
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=LAYOUTS[len(samples)])
        frame.rate, frame.pts, frame.time_base = self.rate, 0, Fraction(1, self.rate)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
