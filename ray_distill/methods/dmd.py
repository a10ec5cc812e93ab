"""DMD2: distribution matching distillation with backward simulation (arXiv 2311.18828, 2405.14867).

1. roll out: exit step k shared by all ranks; steps before k without gradient, step k gives x = x_0-prediction; stop
2. diffuse x to a score timestep: x_s = (1 - s) x + s eps
3. student, every ``student_interval`` steps: g = (mu_fake(x_s) - mu_real(x_s)) / mean abs(x - mu_real(x_s));
   descend 0.5 mean (x - sg[x - g])^2, whose gradient at x is g / N
4. fake score, every step: descend mean (v_fake(x_s) - (eps - x))^2 on a rollout without gradient
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ray_distill.diffusion.flow import add_noise, velocity, x_0_from_velocity
from ray_distill.diffusion.guidance import guided_velocity, standard_scale
from ray_distill.diffusion.losses import dmd_gradient, finite_samples, mse, surrogate
from ray_distill.diffusion.samplers import simulate
from ray_distill.diffusion.timesteps import check_timesteps, score_sigma
from ray_distill.types import (
    FAKE_SCORE,
    STUDENT,
    TEACHER,
    Batch,
    LossTerms,
    Need,
    Networks,
    Rng,
    Role,
    Sampler,
    Shared,
    Update,
)


@dataclass(frozen=True)
class DMD:
    timesteps: tuple[float, ...] = (1000.0, 757.0, 522.0)
    rollout: Literal["sde", "ode"] = "sde"
    student_interval: int = 5
    teacher_guidance: float = 3.0
    teacher_guidance_form: Literal["std", "extra"] = "std"
    score_shift: float = 1.0
    score_min: float = 0.02
    score_max: float = 0.98
    min_norm: float = 1e-5

    name: ClassVar[str] = "dmd"
    roles: ClassVar[Mapping[Role, Need]] = {STUDENT: "trained", FAKE_SCORE: "trained", TEACHER: "frozen"}
    uses_latents: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_timesteps(self.timesteps)
        if self.student_interval < 1:
            raise ValueError(f"student_interval = {self.student_interval}: use 1 for every step, or more")
        if not 0 < self.score_min < self.score_max < 1:
            raise ValueError(f"score_min, score_max = {self.score_min}, {self.score_max}: need 0 < min < max < 1")
        if self.score_shift <= 0 or self.min_norm <= 0:
            raise ValueError(f"score_shift, min_norm = {self.score_shift}, {self.min_norm}: both must be above 0")

    def updates(self, step: int) -> tuple[Update, ...]:
        student = Update((STUDENT,), self.student_loss)
        fake_score = Update((FAKE_SCORE,), self.fake_score_loss)
        return (student, fake_score) if (step + 1) % self.student_interval == 0 else (fake_score,)

    def sampler(self) -> Sampler:
        return Sampler(self.timesteps, self.rollout)

    def exit_step(self, rng: Rng, purpose: str) -> int:
        return rng.control(f"{purpose}/exit", len(self.timesteps))

    def roll_out(self, networks: Networks, batch: Batch, rng: Rng, purpose: str, grad: bool) -> Tensor:
        """x [B, C, T, H, W]: the student's x_0-prediction at a random exit step, with gradient there and only there."""

        def noise(i: int) -> Tensor:
            return rng.noise(f"{purpose}/noise{i}", batch.sample_ids, batch.latent_shape)

        k = self.exit_step(rng, purpose)
        return simulate(networks[STUDENT], self.sampler(), noise(-1), batch.cond, noise, k, grad)

    def diffuse(self, x: Tensor, batch: Batch, rng: Rng, purpose: str) -> tuple[Tensor, Tensor, Tensor]:
        """(x_s, s, eps): ``x`` at a score timestep of its own per sample."""
        eps = rng.noise(f"{purpose}/score_eps", batch.sample_ids, x.shape[1:])
        u = rng.uniform(f"{purpose}/score_sigma", batch.sample_ids)
        sigma = score_sigma(u, self.score_shift, self.score_min, self.score_max)
        return add_noise(x, eps, sigma), sigma, eps

    def student_loss(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        x = self.roll_out(networks, batch, rng, "student", grad=True)
        with torch.no_grad():
            x_s, sigma, _ = self.diffuse(x, batch, rng, "student")
            mu_fake = x_0_from_velocity(x_s, networks[FAKE_SCORE](x_s, sigma, batch.cond).velocity, sigma)
            scale = standard_scale(self.teacher_guidance, self.teacher_guidance_form)
            v_real = guided_velocity(networks[TEACHER], x_s, sigma, batch.cond, batch.uncond, scale)
            g, norm = dmd_gradient(x, mu_fake, x_0_from_velocity(x_s, v_real, sigma), self.min_norm)
            finite = finite_samples(g)  # a broken sample gives no gradient, and is counted
            g[~finite] = 0.0
        loss = surrogate(x, g)
        logs = {
            "dmd_loss": loss.detach(),
            "dmd_gradient": g.abs().mean(),
            "dmd_norm": norm.nanmedian(),
            "dmd_nonfinite_share": (~finite).float().mean(),
            "student_std": x.detach().std(),
        }
        return LossTerms(loss, logs)

    def fake_score_loss(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        x = self.roll_out(networks, batch, rng, "fake_score", grad=False)
        x_s, sigma, eps = self.diffuse(x, batch, rng, "fake_score")
        loss = mse(networks[FAKE_SCORE](x_s, sigma, batch.cond).velocity, velocity(x, eps))
        return LossTerms(loss, {"fake_score_loss": loss.detach()})
