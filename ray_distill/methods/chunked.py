"""Keys that causal methods share: chunks of a clip, and the window that a chunk sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ray_distill.diffusion.causal import chunk_lengths
from ray_distill.types import Chunks, Window


@dataclass(frozen=True, kw_only=True)
class Chunked:
    """``docs/methods.md`` explains each key."""

    num_frame_per_block: int = 3
    """Latent frames of a chunk."""
    independent_first_frame: bool = False
    """The first chunk is one frame."""
    window: int | None = None
    """Largest number of latent frames that a chunk sees, including its own and the sink's; default: all before it."""
    sink: int = 0
    """Number of the clip's first latent frames that stay visible."""

    with_sound: ClassVar[bool] = False

    def check_chunks(self) -> None:
        """ValueError if a chunk has no frame, or if window or sink is no whole number of chunks."""
        length, first = self.num_frame_per_block, 1 if self.independent_first_frame else self.num_frame_per_block
        if length < 1:
            raise ValueError(f"num_frame_per_block = {length}: use 1 latent frame or more")
        if self.window is None and self.sink:
            raise ValueError(
                f"sink = {self.sink}: without a window all frames stay visible; give window, or remove sink"
            )
        if self.window is None:
            return
        if self.sink < 0 or (self.sink and (self.sink < first or (self.sink - first) % length)):
            near = first + max(0, self.sink - first) // length * length
            raise ValueError(f"sink = {self.sink}: a sink holds whole chunks; use 0, {near} or {near + length}")
        rest = self.window - self.sink
        if rest < length or rest % length:
            near = self.sink + max(1, rest // length) * length
            raise ValueError(
                f"window = {self.window}: beside sink = {self.sink} a window holds whole chunks of {length} latent "
                f"frames; use {near} or {near + length}"
            )

    @property
    def chunks(self) -> Chunks:
        window = None if self.window is None else Window(self.window, self.sink)
        return Chunks(self.num_frame_per_block, self.independent_first_frame, window=window)

    def lengths(self, frames: int) -> tuple[int, ...]:
        """Latent frames of each chunk of a clip; ValueError if the clip is no whole number of chunks."""
        return chunk_lengths(frames, self.chunks)

    def describe_chunks(self) -> str:
        first = ", the first of 1" if self.independent_first_frame else ""
        sink = f" with a sink of {self.sink}" if self.sink else ""
        window = "" if self.window is None else f", each in a window of {self.window}{sink}"
        return f"chunks of {self.num_frame_per_block} latent frames{first}{window}"
