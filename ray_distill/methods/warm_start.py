"""DMD after a regression on the teacher's own trajectories (the ODE initialisation of CausVid, arXiv 2412.07772).

1. the teacher's Euler solver takes noise through x_k, at the level of a student's step, to x_clean, without gradient
   (with ``pairs``, `prepare` has done this)
2. for ``warm_start_steps`` steps descend mean (G(x_k) - x_clean)^2; then distil
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ray_distill.diffusion.flow import x_0_from_velocity
from ray_distill.diffusion.losses import mse
from ray_distill.diffusion.prefix import generated
from ray_distill.diffusion.samplers import halting, trajectory
from ray_distill.diffusion.timesteps import euler_timesteps
from ray_distill.methods.dmd import DMD
from ray_distill.types import STUDENT, TEACHER, Batch, LossTerms, Networks, Rng, Sampler, Shared, Trajectories, Update


@dataclass(frozen=True)
class WarmStart(DMD):
    warm_start_steps: int = 3000
    """Steps of the regression before DMD begins."""
    solver_steps: int = 48
    """Steps of the teacher's solver."""
    solver_shift: float = 8.0
    """Shift of the solver's steps."""
    solver_guidance: float = 7.0
    """Standard scale: u + s (c - u)."""
    solver_audio_guidance: float | None = None
    """The same for sound, for clips with sound; null: solver_guidance."""
    pairs: bool = False
    """Regress on prepared trajectories; false: call the teacher at each step."""

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
            return (Update(STUDENT, self.warm_start_loss),)
        return super().updates(step - self.warm_start_steps)

    @property
    def period(self) -> tuple[int, int]:
        return self.warm_start_steps, self.student_interval

    @property
    def prepared(self) -> Trajectories | None:
        if not self.pairs:
            return None
        levels = self.sampler().timesteps
        audio = self.solver_audio_guidance
        return Trajectories(self.solver_steps, self.solver_shift, self.solver_guidance, levels, audio)

    @property
    def uses_latents(self) -> bool:
        return self.pairs or super().uses_latents

    def solver(self) -> Sampler:
        """Recipe of the teacher's solver, which halts at each of the student's levels."""
        grid = euler_timesteps(self.solver_steps, self.solver_shift)
        return halting(grid, self.sampler().timesteps, self.solver_guidance, self.solver_audio_guidance)

    def trajectory(self, networks: Networks, batch: Batch, rng: Rng) -> list[Tensor]:
        """The teacher's states [B, C, T, H, W] at the student's levels, then its x_0."""
        if self.pairs:
            if batch.states is None or batch.x_0 is None:
                raise ValueError("pairs = True: the batch has no states of the teacher's trajectory")
            return [*batch.states.unbind(1), batch.x_0]
        x_T = rng.noise("warm_start/noise", batch.sample_ids, self.made_shape(batch))
        levels = self.sampler().timesteps
        return trajectory(networks[TEACHER], self.solver(), x_T, batch.cond, batch.uncond, levels)

    def made_shape(self, batch: Batch) -> tuple[int, int, int, int]:
        return batch.latent_shape

    def warm_start_loss(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        k = self.exit_step(rng, "warm_start")
        *states, x_clean = self.trajectory(networks, batch, rng)
        x_k = states[k]
        sigma = x_k.new_full((len(x_k),), self.sampler().timesteps[k] / 1000)
        x = x_0_from_velocity(x_k, networks[STUDENT](x_k, sigma, batch.cond).velocity, sigma)
        loss = self.weighed(mse, batch, generated(x, batch.prefix), generated(x_clean, batch.prefix))
        return LossTerms(loss, {"warm_start_loss": loss.detach()})
