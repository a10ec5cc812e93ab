"""Causal regression on an autoregressive teacher's trajectories (Causal-Forcing, arXiv 2602.02214, stage 2).

1. the teacher's Euler solver takes noise through x_k at each of the student's levels to x_end, all chunks at once, each
   after the earlier clean chunks of the clip (teacher forcing), without gradient
2. one level k for all frames of a sample;  descend mean (G(x_k) - x_end)^2 under the same mask, on the same clip
Unlike a bidirectional teacher's, such a target is a function of the frames that a causal student sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from ray_distill.diffusion.causal import clean_history, teacher_forced
from ray_distill.diffusion.flow import x_0_from_velocity
from ray_distill.diffusion.losses import mse
from ray_distill.diffusion.prefix import generated
from ray_distill.diffusion.samplers import halting, trajectory
from ray_distill.diffusion.timesteps import check_timesteps, euler_timesteps
from ray_distill.methods.chunked import Chunked
from ray_distill.types import (
    STUDENT,
    TEACHER,
    Batch,
    Experts,
    Heads,
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


@dataclass(frozen=True)
class CausalRegression(Chunked):
    timesteps: tuple[float, ...] = (1000.0, 937.5, 2500 / 3, 625.0)
    """The student's steps, falling from 1000."""
    solver_steps: int = 48
    """Steps of the teacher's solver."""
    solver_shift: float = 5.0
    """Shift of the solver's steps."""
    solver_guidance: float = 6.0
    """Standard scale: u + s (c - u)."""

    name: ClassVar[str] = "causal_regression"
    roles: ClassVar[Mapping[Role, Need]] = {STUDENT: "trained", TEACHER: "frozen"}
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
        check_timesteps(self.timesteps)
        self.check_chunks()
        if self.solver_steps < 1 or self.solver_shift <= 0:
            raise ValueError(
                f"solver_steps, solver_shift = {self.solver_steps}, {self.solver_shift}: both must be above 0"
            )

    def warnings(self, bf16: bool) -> list[str]:
        return []

    def updates(self, step: int) -> tuple[Update, ...]:
        return (Update(STUDENT, self.student_loss),)

    def describe(self) -> str:
        steps = ", ".join(f"{t:.4g}" for t in self.timesteps)
        return (
            f"student steps {steps} (sde); the teacher's {self.solver_steps} Euler steps at guidance u + s (c - u), "
            f"s = {self.solver_guidance:g}; {self.describe_chunks()}"
        )

    def sampler(self) -> Sampler:
        return Sampler(self.timesteps, "sde", chunks=self.chunks)

    def student_loss(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        assert batch.x_0 is not None
        lengths, history = self.lengths(batch.latent_shape[1]), clean_history(batch.x_0)
        student, teacher = (
            teacher_forced(networks[role], history, lengths, self.chunks.window) for role in (STUDENT, TEACHER)
        )
        solver = halting(euler_timesteps(self.solver_steps, self.solver_shift), self.timesteps, self.solver_guidance)
        x_T = rng.noise("noise", batch.sample_ids, batch.latent_shape)
        *states, x_end = trajectory(teacher, solver, x_T, batch.cond, batch.uncond, self.timesteps)
        k = (rng.uniform("level", batch.sample_ids) * len(states)).long()
        x_k = torch.stack(states, dim=1)[torch.arange(len(k), device=k.device), k]
        sigma = torch.tensor(self.timesteps, device=k.device)[k] / 1000
        prediction = x_0_from_velocity(x_k, student(x_k, sigma, batch.cond).velocity, sigma)
        loss = mse(generated(prediction, batch.prefix), generated(x_end, batch.prefix))
        return LossTerms(loss, {"regression_loss": loss.detach()})
