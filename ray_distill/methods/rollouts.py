"""Rollouts of a causal student beyond its scored frames: their keys and their bounds.

drawn      (Self-Forcing++, arXiv 2510.02283) each update rolls out anew, to a random length, and scores the last
           ``num_training_frames``
streamed   (LongLive, arXiv 2509.22622) a rollout continues from update to update with its cache; an update makes more
           frames, scores the latest ``num_training_frames``, and descends on the new ones
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ray_distill.diffusion.causal import chunk_lengths, longest
from ray_distill.methods.chunked import Chunked
from ray_distill.types import AtSave, Batch, Cache, Rng, Rollout


@dataclass(frozen=True)
class Stretch:
    """Frames of a rollout that an update makes, from ``start`` to ``end``; gradient begins at ``scored``."""

    start: int
    scored: int
    end: int


@dataclass(frozen=True, kw_only=True)
class LongRollouts(Chunked):
    """``docs/methods.md`` explains each key."""

    num_training_frames: int = 21
    """Largest number of latent frames of a rollout, hence of the gradient; rounded down to whole chunks."""
    rollout_frames: int | None = None
    """Latent frames of the longest rollout, if rollouts continue beyond the scored frames."""
    rollout_overlap: int | None = None
    """Latent frames that a window of a streamed rollout shares with the previous one; default: rollouts begin anew."""
    rollout_at_save: AtSave = "saved"
    """Treatment of streamed rollouts: a checkpoint keeps them, or new ones begin after each save."""

    def check_length(self) -> None:
        """ValueError if no chunk is scored, or if ``rollout_frames`` is too short or lacks a window."""
        scored = longest(self.num_training_frames, self.chunks)
        if scored < 1:
            raise ValueError(
                f"num_training_frames = {self.num_training_frames}: no chunk fits; use at least "
                f"{1 if self.independent_first_frame else self.num_frame_per_block}"
            )
        if self.rollout_frames is None:
            self._check_stream(scored)
            return
        if self.window is None:
            raise ValueError(
                f"rollout_frames = {self.rollout_frames}: a rollout longer than the scored clip needs a window; give "
                "window, or remove rollout_frames"
            )
        more = scored + self.num_frame_per_block
        if self.rollout_frames < more:
            raise ValueError(
                f"rollout_frames = {self.rollout_frames}: its last num_training_frames = {self.num_training_frames} "
                f"are scored, and no chunk comes before these; use {more} or more, or remove rollout_frames"
            )
        if scored == 1:
            raise ValueError(
                f"num_training_frames = {self.num_training_frames}: the first latent frame of a later window is not "
                f"scored, and it has no other; use {1 + self.num_frame_per_block} or more, or remove rollout_frames"
            )
        self._check_stream(scored)

    def _check_stream(self, scored: int) -> None:
        """ValueError for keys of streamed rollouts that have no effect, or leave no new frames."""
        overlap, length = self.rollout_overlap, self.num_frame_per_block
        if overlap is None:
            if self.rollout_at_save != "saved":
                raise ValueError(
                    f"rollout_at_save = {self.rollout_at_save}: rollouts begin anew in each update; give "
                    "rollout_overlap, or remove rollout_at_save"
                )
            return
        if self.rollout_frames is None:
            raise ValueError(
                f"rollout_overlap = {overlap}: a rollout that goes on from step to step needs an end; give "
                "rollout_frames, or remove rollout_overlap"
            )
        most = scored - length
        if overlap < 1 or overlap > most:
            raise ValueError(
                f"rollout_overlap = {overlap}: of its {scored} latent frames a window shares at least 1 with the "
                f"window before, and at least a chunk of {length} is new; use 1 to {most}"
                if most >= 1
                else f"rollout_overlap = {overlap}: a window is one chunk, so windows share no frames; raise "
                "num_training_frames, or remove rollout_overlap"
            )

    @property
    def beyond_clips(self) -> bool:
        return self.rollout_frames is not None

    @property
    def streamed(self) -> AtSave | None:
        return None if self.rollout_overlap is None else self.rollout_at_save

    def describe_rollouts(self) -> str:
        bound = longest(self.num_training_frames, self.chunks)
        longer = self.rollout_frames and longest(self.rollout_frames, self.chunks)
        if not longer:
            beyond = ""
        elif self.rollout_overlap is None:
            beyond = f", the last of up to {longer} that are rolled out"
        else:
            at = "go on" if self.streamed == "saved" else "begin anew"
            beyond = f" of {longer}, which go on from step to step in {self.windows(bound)} windows, and {at} at a save"
        return f"rollouts of at most {bound} (num_training_frames = {self.num_training_frames}){beyond}"

    def windows(self, scored: int) -> int:
        """Number of windows of ``scored`` frames in a streamed rollout: 14 of 21 that share 3, in 240 frames."""
        assert self.rollout_frames is not None
        return 1 + -(-(longest(self.rollout_frames, self.chunks) - scored) // self.new_frames(scored))

    def new_frames(self, scored: int) -> int:
        """Largest number of new frames in a later window of ``scored``: whole chunks, at least one."""
        length = self.num_frame_per_block
        return max(length, (scored - (self.rollout_overlap or 0)) // length * length)

    def frames(self, clip: int) -> int:
        """Latent frames of a rollout for a clip of ``clip`` frames; ValueError if the clip is no whole number of
        chunks."""
        chunk_lengths(clip, self.chunks)  # validation samples all of it
        return longest(min(clip, self.num_training_frames), self.chunks)

    def first_scored(self, clip: int, rng: Rng, purpose: str) -> int:
        """First scored frame of a rollout for a clip of ``clip`` latent frames, drawn so that the scored frames end
        with a chunk."""
        if self.rollout_frames is None or self.rollout_overlap is not None:
            return 0
        more = longest(self.rollout_frames, self.chunks) - self.frames(clip)
        return self.num_frame_per_block * rng.control(f"{purpose}/window", more // self.num_frame_per_block + 1)

    def stretch(self, batch: Batch, rng: Rng, purpose: str) -> Stretch:
        """Frames that an update on ``batch`` makes."""
        clip, rollout = batch.latent_shape[1], batch.rollout
        if rollout is None or rollout.x is None:
            first = self.first_scored(clip, rng, purpose)
            return Stretch(0, first, first + self.frames(clip))
        assert self.rollout_frames is not None
        more = longest(self.rollout_frames, self.chunks) - rollout.frames
        end = rollout.frames + min(more, self.new_frames(self.frames(clip)))
        return Stretch(rollout.frames, rollout.frames, end)

    def lengths_of(self, stretch: Stretch) -> tuple[int, ...]:
        """Latent frames of each new chunk."""
        before = chunk_lengths(stretch.start, self.chunks) if stretch.start else ()
        return chunk_lengths(stretch.end, self.chunks)[len(before) :]

    def joined(self, batch: Batch, reuse: bool = False) -> Batch:
        """``batch`` with the conditioning of its rollout. It begins a rollout if there is none, unless the update will
        ``reuse`` the latest window."""
        rollout = batch.rollout
        if rollout is None:
            return batch
        if rollout.x is None:
            if not reuse:
                rollout.cond, rollout.uncond = batch.cond, batch.uncond
                rollout.cache, rollout.frames = Cache(window=self.chunks.window), 0
            return replace(batch, cond=rollout.cond, uncond=rollout.uncond)
        _, c, t, h, w = rollout.x.shape
        return replace(batch, cond=rollout.cond, uncond=rollout.uncond, latent_shape=(c, t, h, w))

    def extend(self, rollout: Rollout, x: Tensor) -> Tensor:
        """Append ``x`` to the rollout; returns the window [B, C, T, H, W] of the latest frames. The last window ends
        the rollout."""
        assert self.rollout_frames is not None
        rollout.prefix = 0
        if rollout.x is not None:
            scored, new = rollout.x.shape[2], x.shape[2]
            rollout.prefix = max(1, scored - new)  # scores expect one picture in the first latent frame
            x = torch.cat([rollout.x[:, :, new:], x], dim=2)
            rollout.frames += new
        else:
            rollout.frames = x.shape[2]
        over = rollout.frames >= longest(self.rollout_frames, self.chunks)
        rollout.x = None if over else x.detach()
        if over:
            rollout.cache = Cache()
        return x

    def scored(self, batch: Batch, rng: Rng, purpose: str) -> Batch:
        """Mask frames that no loss or normaliser counts: frames scored before, and the first latent frame of a later
        window.

        That frame holds several pictures, where the scores expect one; they still see it.
        """
        if batch.rollout is not None:
            return replace(batch, prefix=batch.rollout.prefix)
        later = self.first_scored(batch.latent_shape[1], rng, purpose) > 0
        return replace(batch, prefix=1) if later else batch
