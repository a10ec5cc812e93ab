"""Self-Forcing: distribution matching of a causal student on its own rollouts (arXiv 2506.08009).

1. cut the clip into chunks of ``num_frame_per_block`` latent frames, at most ``num_training_frames`` in all
2. a chunk: backward simulation to its exit step k as in DMD2, with attention to the cache of the chunks before it
3. remember: one forward without gradient on the finished chunk at ``context_noise`` fills the cache
4. score, and descend student and fake score, as DMD2 on the whole clip; teacher and fake score see all its frames
With ``rollout_frames`` rollouts are longer than the scored frames (``rollouts``).

Gradients stay within a chunk: a chunk sees the others through a cache without gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from typing import ClassVar

import torch
from torch import Tensor

from ray_distill.diffusion.causal import most_steps, of_chunk, stream
from ray_distill.diffusion.samplers import simulate
from ray_distill.diffusion.timesteps import check_timesteps, warp
from ray_distill.methods.dmd import DMD
from ray_distill.methods.rollouts import LongRollouts
from ray_distill.types import STUDENT, Batch, Chunks, Denoiser, LossTerms, Networks, Rng, Sampler, Shared


@dataclass(frozen=True)
class SelfForcing(LongRollouts, DMD):
    """DMD2's keys, and the keys of the rollout under Self-Forcing's names."""

    first_chunk_timesteps: tuple[float, ...] = ()
    """Steps of the first chunk, if it needs more than the others."""
    same_step_across_blocks: bool = True
    """One exit step for all chunks; false: one for each."""
    last_step_only: bool = False
    """Whether the gradient is always the last step's."""
    context_noise: float = 0.0
    """Timestep at which the cache keeps a finished chunk; 0 is clean."""

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
                f"diversity_weight = {self.diversity_weight}: its anchor is a whole clip at one noise level, and a "
                "causal student makes one chunk after another; remove diversity_weight, or use dmd"
            )
        if not 0 <= self.context_noise < 1000:
            raise ValueError(
                f"context_noise = {self.context_noise}: give a timestep in [0, 1000); 0 keeps the chunks clean"
            )

    def check_consistency(self, steps: int, rollout: str, simulated: bool) -> None:
        """ValueError for the term, which compares whole clips."""
        if self.consistency_weight:
            raise ValueError(
                f"consistency_weight = {self.consistency_weight}: it compares whole clips of a rollout, and a causal "
                "student makes one chunk after another; remove consistency_weight, or use dmd"
            )

    def check_chunk_exits(self) -> None:
        """ValueError for keys of exits that other keys make ineffective or wrong."""
        weighed = {"student_exits": list(self.student_exits), "fake_score_exits": list(self.fake_score_exits)}
        if self.first_chunk_timesteps:
            check_timesteps(self.first_chunk_timesteps, "first_chunk_timesteps")
            for key in (key for key, weights in weighed.items() if weights):
                raise ValueError(
                    f"{key} = {weighed[key]}: it weighs the steps of timesteps, and the first chunk draws its own "
                    "steps, first_chunk_timesteps, all equally likely; remove one of the two keys"
                )
        if self.last_step_only and any(weighed.values()):
            raise ValueError(
                f"last_step_only = True: then student_exits = {list(self.student_exits)} and fake_score_exits = "
                f"{list(self.fake_score_exits)} have no effect; remove last_step_only, or both lists"
            )
        if self.exit_embedding and not (self.same_step_across_blocks or self.last_step_only):
            raise ValueError(
                "exit_embedding = True: the fake score sees the whole clip, and with same_step_across_blocks = False "
                "each chunk has an exit of its own; remove one of the two keys"
            )
        if self.exit_embedding and self.first_chunk_timesteps:
            raise ValueError(
                "exit_embedding = True: the fake score sees the whole clip, and with first_chunk_timesteps its first "
                "chunk has an exit of its own; remove one of the two keys"
            )

    @property
    def chunks(self) -> Chunks:
        first = self.first_chunk_timesteps
        first = warp(first, self.flow_shift) if self.warp_denoising_step else first
        return replace(super().chunks, context_timestep=self.context_noise, first_timesteps=first)

    def describe(self) -> str:
        steps = ", ".join(f"{t:g}" for t in self.chunks.first_timesteps)
        first = f"; steps of the first chunk {steps}" if steps else ""
        return f"{super().describe()}; {self.describe_chunks()}{first}; {self.describe_rollouts()}"

    def sampler(self) -> Sampler:
        return replace(super().sampler(), chunks=self.chunks)

    def exit_step(self, rng: Rng, purpose: str, chunk: int = 0) -> int:
        if self.last_step_only:
            return len(self.timesteps) - 1
        drawn = 0 if self.same_step_across_blocks else chunk
        return self.draw_exit(rng, len(self.timesteps), purpose, f"exit{drawn or ''}")

    def chunk_exit(self, rng: Rng, purpose: str, chunk: int) -> int:
        """The exit step of a chunk; a first chunk with its own steps has its own draw."""
        steps = len(self.first_chunk_timesteps)
        if chunk or not steps:
            return self.exit_step(rng, purpose, chunk)
        return steps - 1 if self.last_step_only else rng.control(f"{purpose}/exit_first", steps)

    @property
    def common_exit(self) -> bool:
        """True if all chunks have one exit, except a first one with its own steps."""
        return self.same_step_across_blocks or self.last_step_only

    def exit_window(self, rng: Rng, purpose: str) -> tuple[int, int]:
        """Score window of the exit step; if each chunk has its own exit, the schedule has no effect."""
        exit_step = self.exit_step(rng, purpose) if self.common_exit else None
        return self.score_levels(self.sampler().timesteps, exit_step)

    def idle_keys(self) -> dict[str, str]:
        reasons = super().idle_keys()
        if not self.common_exit:
            reasons.pop("min_score_timestep", None)
            why = (
                "since same_step_across_blocks = false gives each chunk an exit of its own; remove one of the two keys"
            )
            reasons |= dict.fromkeys(("ts_schedule", "ts_schedule_max"), why)
        return reasons

    def roll_out(self, networks: Networks, batch: Batch, rng: Rng, purpose: str, grad: bool) -> Tensor:
        """x [B, C, T, H, W], the last T <= ``num_training_frames`` of the rollout: each chunk's x_0-prediction at its
        exit step, with gradient only there. ValueError if the clip is no whole number of chunks."""
        sampler, (channels, _, *size), rollout = self.sampler(), batch.latent_shape, batch.rollout
        stretch, last = self.stretch(batch, rng, purpose), None
        if rollout is not None and rollout.x is not None:
            last = rollout.x[:, :, -self.num_frame_per_block :]
        first = stretch.start - (0 if last is None else last.shape[2])  # the cache may keep the last chunk with noise

        @cache
        def noise(i: int) -> Tensor:
            return rng.noise(f"{purpose}/noise{i}", batch.sample_ids, (channels, stretch.end - first, *size))

        def noise_of(i: int, where: slice) -> Tensor:
            return noise(i)[:, :, where.start - first : where.stop - first]

        def denoise_chunk(see: Denoiser, number: int, where: slice) -> Tensor:
            k, x_T = self.chunk_exit(rng, purpose, number), noise_of(-1, where)
            recipe, descends = of_chunk(sampler, number), grad and where.start >= stretch.scored
            return simulate(see, recipe, x_T, batch.cond, lambda i: noise_of(i, where), k, descends)

        context = partial(noise_of, most_steps(sampler))
        past = None if rollout is None else rollout.cache
        chunks = stream(
            networks[STUDENT], self.chunks, self.lengths_of(stretch), batch.cond, context, denoise_chunk, past, last
        )
        x = torch.cat([*chunks], dim=2)
        return x[:, :, stretch.scored :] if rollout is None else self.extend(rollout, x)

    def student_loss(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        return super().student_loss(networks, self.joined(batch), rng, shared)

    def fake_score_loss(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        return super().fake_score_loss(networks, self.joined(batch, reuse="x" in shared), rng, shared)
