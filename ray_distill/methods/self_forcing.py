"""Self-Forcing: distribution matching of a causal student on its own rollouts (arXiv 2506.08009).

1. cut the clip into chunks of ``num_frame_per_block`` latent frames, at most ``num_training_frames`` in all
2. a chunk: backward simulation to its exit step k as in DMD2, with attention to the cache of the chunks before it
3. remember it: one forward without gradient on the finished chunk at ``context_noise``, which fills the cache
4. score, student's and fake score's descent: DMD2's, on the whole clip; teacher and fake score see all its frames
With ``rollout_frames`` (Self-Forcing++, arXiv 2510.02283) a rollout goes on to a length that is drawn: without gradient
up to its last ``num_training_frames``, which alone are scored.

Gradients stay within a chunk: what it sees of others was made without.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

from torch import Tensor

from ray_distill.diffusion.causal import by_chunks, chunk_lengths, longest, most_steps, of_chunk
from ray_distill.diffusion.samplers import simulate
from ray_distill.diffusion.timesteps import check_timesteps, warp
from ray_distill.methods.chunked import Chunked
from ray_distill.methods.dmd import DMD
from ray_distill.types import STUDENT, Batch, Chunks, Denoiser, Networks, Rng, Sampler


@dataclass(frozen=True)
class SelfForcing(Chunked, DMD):
    """DMD2's keys, and those of the rollout, under the names that Self-Forcing gave them."""

    first_chunk_timesteps: tuple[float, ...] = ()
    """Steps of the first chunk alone, where it is to have more than the others."""
    same_step_across_blocks: bool = True
    """One exit step for all chunks, else one each."""
    last_step_only: bool = False
    num_training_frames: int = 21
    """Most latent frames of a rollout, hence of the gradient; whole chunks within it."""
    rollout_frames: int | None = None
    """Latent frames of the longest rollout, where it goes on beyond what is scored."""
    context_noise: float = 0.0
    """The timestep at which a finished chunk is remembered; 0 is clean."""

    name: ClassVar[str] = "self_forcing"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.backward_simulation:
            raise ValueError(
                "backward_simulation = False: a causal student always starts from its own rollout; use dmd"
            )
        self.check_chunks()
        self.check_length()
        self.check_chunk_exits()
        if self.diversity_weight:
            raise ValueError(
                f"diversity_weight = {self.diversity_weight}: its anchor is a whole clip of one level, and a causal "
                "student goes by chunks; remove it, or use dmd"
            )
        if not 0 <= self.context_noise < 1000:
            raise ValueError(f"context_noise = {self.context_noise}: a timestep in [0, 1000); 0 remembers clean chunks")

    def check_length(self) -> None:
        """ValueError where not one chunk is scored, or a longer rollout is none, or without a window."""
        if longest(self.num_training_frames, self.chunks) < 1:
            raise ValueError(
                f"num_training_frames = {self.num_training_frames}: not one chunk fits; use at least "
                f"{1 if self.independent_first_frame else self.num_frame_per_block}"
            )
        if self.rollout_frames is None:
            return
        if self.window is None:
            raise ValueError(
                f"rollout_frames = {self.rollout_frames}: a clip longer than the scores' needs a window; give window, "
                "or remove it"
            )
        more = longest(self.num_training_frames, self.chunks) + self.num_frame_per_block
        if self.rollout_frames < more:
            raise ValueError(
                f"rollout_frames = {self.rollout_frames}: the last num_training_frames = {self.num_training_frames} "
                f"are scored, and no chunk comes before them; use {more} or more, or remove it"
            )

    def check_chunk_exits(self) -> None:
        """ValueError for keys of exits that have no effect beside others, or would say what is not so."""
        weighed = {"student_exits": list(self.student_exits), "fake_score_exits": list(self.fake_score_exits)}
        if self.first_chunk_timesteps:
            check_timesteps(self.first_chunk_timesteps, "first_chunk_timesteps")
            for key in (key for key, weights in weighed.items() if weights):
                raise ValueError(
                    f"{key} = {weighed[key]}: it weighs the steps of timesteps, and the first chunk has "
                    "first_chunk_timesteps, each as likely as the others; remove one of them"
                )
        if self.last_step_only and any(weighed.values()):
            raise ValueError(
                f"last_step_only = True: student_exits = {list(self.student_exits)} and fake_score_exits = "
                f"{list(self.fake_score_exits)} have no effect then; remove last_step_only, or both lists"
            )
        if self.exit_embedding and not (self.same_step_across_blocks or self.last_step_only):
            raise ValueError(
                "exit_embedding = True: the fake score sees the whole clip, and with same_step_across_blocks = False "
                "each chunk has an exit of its own; remove one of them"
            )
        if self.exit_embedding and self.first_chunk_timesteps:
            raise ValueError(
                "exit_embedding = True: the fake score sees the whole clip, and with first_chunk_timesteps its first "
                "chunk has an exit of its own; remove one of them"
            )

    @property
    def chunks(self) -> Chunks:
        first = self.first_chunk_timesteps
        first = warp(first, self.flow_shift) if self.warp_denoising_step else first
        return replace(super().chunks, context_timestep=self.context_noise, first_timesteps=first)

    def frames(self, clip: int) -> int:
        """Number of a clip's latent frames that are rolled out; ValueError where it is no whole number of chunks."""
        chunk_lengths(clip, self.chunks)  # validation samples all of it
        return longest(min(clip, self.num_training_frames), self.chunks)

    @property
    def beyond_clips(self) -> bool:
        return self.rollout_frames is not None

    def first_scored(self, clip: int, rng: Rng, purpose: str) -> int:
        """The frame of a rollout from which on it is scored, for a clip of ``clip`` latent frames: drawn so that the
        scored frames end where a chunk does."""
        if self.rollout_frames is None:
            return 0
        more = longest(self.rollout_frames, self.chunks) - self.frames(clip)
        return self.num_frame_per_block * rng.control(f"{purpose}/window", more // self.num_frame_per_block + 1)

    def scored(self, batch: Batch, rng: Rng, purpose: str) -> Batch:
        """Scored frames that are not the clip's first begin with a latent frame of several pictures, where the scores
        know a single one: they see it, and no loss or normaliser counts it."""
        later = self.first_scored(batch.latent_shape[1], rng, purpose) > 0
        return replace(batch, prefix=1) if later else batch

    def describe(self) -> str:
        bound = longest(self.num_training_frames, self.chunks)
        steps = ", ".join(f"{t:g}" for t in self.chunks.first_timesteps)
        first = f"; steps of the first chunk {steps}" if steps else ""
        chunks = f"{self.describe_chunks()}{first}; rollouts of at most {bound}"
        longer = self.rollout_frames and longest(self.rollout_frames, self.chunks)
        beyond = f", the last of up to {longer} that are rolled out" if longer else ""
        return f"{super().describe()}; {chunks} (num_training_frames = {self.num_training_frames}){beyond}"

    def sampler(self) -> Sampler:
        return replace(super().sampler(), chunks=self.chunks)

    def exit_step(self, rng: Rng, purpose: str, chunk: int = 0) -> int:
        if self.last_step_only:
            return len(self.timesteps) - 1
        drawn = 0 if self.same_step_across_blocks else chunk
        return self.draw_exit(rng, len(self.timesteps), purpose, f"exit{drawn or ''}")

    def chunk_exit(self, rng: Rng, purpose: str, chunk: int) -> int:
        """The exit step of a chunk: the first has a draw of its own where it has steps of its own."""
        steps = len(self.first_chunk_timesteps)
        if chunk or not steps:
            return self.exit_step(rng, purpose, chunk)
        return steps - 1 if self.last_step_only else rng.control(f"{purpose}/exit_first", steps)

    def exit_window(self, rng: Rng, purpose: str) -> tuple[int, int]:
        """Score window of the exit step; with an exit for each chunk there is none, and the schedule has no effect."""
        common = self.same_step_across_blocks or self.last_step_only
        return self.score_levels(self.sampler().timesteps, self.exit_step(rng, purpose) if common else None)

    def roll_out(self, networks: Networks, batch: Batch, rng: Rng, purpose: str, grad: bool) -> Tensor:
        """x [B, C, T, H, W] with T <= ``num_training_frames``, the last of the rollout: each chunk's x_0-prediction at
        its exit step, with gradient there and only there. ValueError where the clip is no whole number of chunks."""
        sampler, (channels, clip, *size) = self.sampler(), batch.latent_shape
        start = self.first_scored(clip, rng, purpose)
        frames = start + self.frames(clip)

        @cache
        def noise(i: int) -> Tensor:
            return rng.noise(f"{purpose}/noise{i}", batch.sample_ids, (channels, frames, *size))

        def denoise_chunk(see: Denoiser, number: int, where: slice) -> Tensor:
            k, x_T = self.chunk_exit(rng, purpose, number), noise(-1)[:, :, where]
            recipe, descends = of_chunk(sampler, number), grad and where.start >= start
            return simulate(see, recipe, x_T, batch.cond, lambda i: noise(i)[:, :, where], k, descends)

        last = most_steps(sampler)
        x = by_chunks(networks[STUDENT], self.chunks, frames, batch.cond, lambda: noise(last), denoise_chunk)
        return x[:, :, start:]
