"""Teacher forcing: training of an autoregressive teacher (Causal-Forcing, arXiv 2602.02214, stage 1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ray_distill.diffusion.causal import by_frame, teacher_forced
from ray_distill.diffusion.flow import add_noise, velocity
from ray_distill.diffusion.losses import frame_mse
from ray_distill.diffusion.timesteps import euler_timesteps, shift_sigma
from ray_distill.methods.chunked import Chunked
from ray_distill.methods.flow_matching import check_sampling, drop
from ray_distill.types import (
    STUDENT,
    Batch,
    Experts,
    Heads,
    History,
    LossTerms,
    Need,
    Networks,
    Rng,
    Role,
    Sampler,
    Shared,
    Stage,
    Trajectories,
    Update,
)

GRID = 1000
"""Number of levels over which the bell has mean 1."""


@dataclass(frozen=True)
class TeacherForcing(Chunked):
    shift: float = 5.0
    """Shift of the levels, hence of the sampler's."""
    loss_weight: Literal["uniform", "bell"] = "uniform"
    """Weight of a level: uniform is 1, bell is highest in the middle and 0 at pure noise."""
    history_noise: float = 0.0
    """Highest sigma of noise on the clean half; 0 leaves it clean."""
    prompt_dropout: float = 0.1
    """Share of samples with the negative prompt in place of their own, for guidance."""
    sampling_steps: int = 48
    """Steps of the sampler."""
    sampling_guidance: float = 3.0
    """Guidance of the sampler, s in u + s (c - u)."""

    name: ClassVar[str] = "teacher_forcing"
    roles: ClassVar[Mapping[Role, Need]] = {STUDENT: "trained"}
    heads: ClassVar[Mapping[Role, Heads]] = {}
    exits: ClassVar[Mapping[Role, int]] = {}
    beyond_clips: ClassVar[bool] = False
    streamed: ClassVar[None] = None
    uses_latents: ClassVar[bool] = True
    prepared: ClassVar[Trajectories | None] = None
    period: ClassVar[tuple[int, int]] = 0, 1
    stages: ClassVar[tuple[Stage, ...]] = ()
    teachers: ClassVar[Experts | None] = None

    def __post_init__(self) -> None:
        self.check_chunks()
        check_sampling(self.shift, self.sampling_steps, self.prompt_dropout)
        if not 0 <= self.history_noise < 1:
            raise ValueError(
                f"history_noise = {self.history_noise}: give the highest noise level of the clean half as a sigma in "
                "[0, 1), not as a timestep; 0 leaves it clean"
            )

    def warnings(self, bf16: bool) -> list[str]:
        return []

    def updates(self, step: int) -> tuple[Update, ...]:
        return (Update(STUDENT, self.loss),)

    def describe(self) -> str:
        return (
            f"{self.describe_chunks()}; sampled with {self.sampling_steps} Euler steps at guidance u + s (c - u), "
            f"s = {self.sampling_guidance:g}"
        )

    def sampler(self) -> Sampler:
        grid = euler_timesteps(self.sampling_steps, self.shift)
        return Sampler(grid, "ode", self.sampling_guidance, self.chunks)

    def loss(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        assert batch.x_0 is not None
        lengths = self.lengths(batch.latent_shape[1])
        eps = rng.noise("eps", batch.sample_ids, batch.latent_shape)
        sigma = shift_sigma(self.draw(rng, "sigma", batch, lengths), self.shift)
        dropped = rng.uniform("prompt_dropout", batch.sample_ids) < self.prompt_dropout
        cond = drop(batch.cond, batch.uncond, dropped)
        student = teacher_forced(networks[STUDENT], self.history(batch, rng, lengths), lengths, self.chunks.window)
        v = student(add_noise(batch.x_0, eps, sigma), sigma, cond).velocity
        each = frame_mse(v, velocity(batch.x_0, eps))
        loss = (self.weight(sigma) * each)[:, batch.prefix :].mean()
        return LossTerms(loss, {"teacher_forcing_loss": loss.detach()})

    def draw(self, rng: Rng, purpose: str, batch: Batch, lengths: tuple[int, ...]) -> Tensor:
        """Uniform draws in [0, 1) [B, T], one for each sample and chunk."""
        uniforms = [rng.uniform(f"{purpose}{chunk}", batch.sample_ids) for chunk in range(len(lengths))]
        return by_frame(torch.stack(uniforms, dim=1), lengths)

    def history(self, batch: Batch, rng: Rng, lengths: tuple[int, ...]) -> History:
        """The clean half, at its levels [B, T]."""
        assert batch.x_0 is not None
        level = self.history_noise * self.draw(rng, "history_sigma", batch, lengths)
        if not self.history_noise:
            return History(batch.x_0, level)
        eps = rng.noise("history_eps", batch.sample_ids, batch.latent_shape)
        return History(add_noise(batch.x_0, eps, level), level)

    def weight(self, sigma: Tensor) -> Tensor:
        """Weight w: 1, or the bell exp(-2 (sigma - 1/2)^2) less its minimum, over its mean on the shifted grid. The
        bell is 0 at pure noise, where sampling begins."""
        if self.loss_weight == "uniform":
            return torch.ones_like(sigma)
        lowest = math.exp(-0.5)
        grid = [shift_sigma(i / GRID, self.shift) for i in range(1, GRID + 1)]
        mean = sum(math.exp(-2 * (level - 0.5) ** 2) - lowest for level in grid) / GRID
        return (torch.exp(-2 * (sigma - 0.5) ** 2) - lowest) / mean
