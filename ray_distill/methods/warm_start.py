"""DMD after a regression on the teacher's own trajectories (the ODE initialisation of CausVid, arXiv 2412.07772).

1. the teacher's Euler solver takes noise over x_k, at the level of a student's step, to x_clean, without gradient
2. for ``warm_start_steps`` steps descend mean (G(x_k) - x_clean)^2; then distil
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ray_distill.diffusion.flow import x_0_from_velocity
from ray_distill.diffusion.losses import mse
from ray_distill.diffusion.samplers import denoise
from ray_distill.diffusion.timesteps import euler_timesteps
from ray_distill.methods.dmd import DMD
from ray_distill.types import STUDENT, TEACHER, Batch, LossTerms, Networks, Rng, Sampler, Shared, Update


@dataclass(frozen=True)
class WarmStart(DMD):
    warm_start_steps: int = 3000
    solver_steps: int = 48
    solver_shift: float = 8.0
    solver_guidance: float = 7.0
    """Standard: u + s (c - u)."""

    name: ClassVar[str] = "dmd_warm_start"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warm_start_steps < 1 or self.solver_steps < 1 or self.solver_shift <= 0:
            raise ValueError(
                f"warm_start_steps, solver_steps, solver_shift = {self.warm_start_steps}, {self.solver_steps}, "
                f"{self.solver_shift}: all must be above 0"
            )

    def updates(self, step: int) -> tuple[Update, ...]:
        if step < self.warm_start_steps:
            return (Update((STUDENT,), self.warm_start_loss),)
        return super().updates(step - self.warm_start_steps)

    def solver(self) -> Sampler:
        """The teacher's recipe, which halts at each of the student's levels."""
        levels = {*euler_timesteps(self.solver_steps, self.solver_shift), *self.sampler().timesteps}
        return Sampler(tuple(sorted(levels, reverse=True)), "ode", self.solver_guidance)

    def warm_start_loss(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        timestep, solver = self.sampler().timesteps[self.exit_step(rng, "warm_start")], self.solver()
        halt, end = solver.timesteps.index(timestep), len(solver.timesteps)
        x_T = rng.noise("warm_start/noise", batch.sample_ids, batch.latent_shape)

        def solve(x_t: Tensor, start: int, stop: int) -> Tensor:
            # "ode" asks for no noise.
            return denoise(networks[TEACHER], solver, x_t, batch.cond, batch.uncond, lambda i: x_t, start, stop)

        with torch.no_grad():
            x_k = solve(x_T, 0, halt)
            x_clean = solve(x_k, halt, end)
        sigma = x_k.new_full((len(x_k),), timestep / 1000)
        loss = mse(x_0_from_velocity(x_k, networks[STUDENT](x_k, sigma, batch.cond).velocity, sigma), x_clean)
        return LossTerms(loss, {"warm_start_loss": loss.detach()})
