"""The diversity anchor of DP-DMD (arXiv 2602.03139), a term beside distribution matching.

1. x_a: end of the teacher's guided Euler ODE from the student's own noise eps to the level s_a of its second step
2. v_bar = (eps - x_a) / (1 - s_a), the average velocity of that path
3. descend ``diversity_weight`` mean (v_student(eps, s_1) - v_bar)^2
With student_exits 0,1,.. DMD trains only the later steps, as DP-DMD does: the first step keeps variety, the others add
quality.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ray_distill.diffusion.losses import mse
from ray_distill.diffusion.prefix import generated
from ray_distill.diffusion.samplers import denoise, halting
from ray_distill.diffusion.timesteps import euler_timesteps
from ray_distill.methods.modalities import Modalities
from ray_distill.types import STUDENT, TEACHER, Batch, Networks


@dataclass(frozen=True, kw_only=True)
class Anchor(Modalities):
    diversity_weight: float = 0.0
    """Weight of the anchor of the first step to the teacher's path; 0 is off."""
    diversity_steps: int = 30
    """Steps of the teacher's solver over all levels; it stops at the student's second step."""
    diversity_shift: float = 5.0
    """Shift of the solver's steps."""

    def check_anchor(self, steps: int) -> None:
        """ValueError if a key is out of range, or if the student has no second step."""
        if self.diversity_weight < 0 or self.diversity_steps < 1 or self.diversity_shift <= 0:
            raise ValueError(
                f"diversity_weight, diversity_steps, diversity_shift = {self.diversity_weight}, "
                f"{self.diversity_steps}, {self.diversity_shift}: need a weight of 0 (off) or more, 1 step or more "
                "and a shift above 0"
            )
        if self.diversity_weight and steps < 2:
            raise ValueError(
                f"diversity_weight = {self.diversity_weight}: the anchor is at the student's second step, and this "
                "student has one step; give two timesteps or more, or remove diversity_weight"
            )

    def anchor_loss(
        self,
        networks: Networks,
        batch: Batch,
        eps: Tensor,
        timesteps: tuple[float, ...],
        scale: float,
        audio_scale: float | None = None,
    ) -> Tensor:
        """mean (v_student(eps, s_1) - v_bar)^2 over a modality's generated elements, with gradient to the student;
        ``scale`` guides the teacher, for sound ``audio_scale`` unless it is None."""
        first, second = timesteps[:2]
        solver = halting(euler_timesteps(self.diversity_steps, self.diversity_shift), [second], scale, audio_scale)
        stop, prompts = solver.timesteps.index(second), (batch.cond, batch.uncond)
        with torch.no_grad():
            x_a = denoise(networks[TEACHER], solver, eps, *prompts, lambda i: eps, 0, stop)  # "ode" adds no noise
        v_bar = (eps - x_a) / (1 - second / 1000)
        sigma = eps.new_full((len(eps),), first / 1000)
        v = networks[STUDENT](eps, sigma, batch.cond).velocity
        return self.weighed(mse, batch, generated(v, batch.prefix), generated(v_bar, batch.prefix))
