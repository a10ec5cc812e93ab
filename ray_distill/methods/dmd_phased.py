"""Phased DMD: two experts, each with its own student, fake score and teacher (arXiv 2510.27684; Wan 2.2).

1. high: from noise to an exit step k among the high steps; x is the x_0-prediction there, and x_s the Euler step from k
   to the phase's end s, the first level of the low expert. Add noise: x_t = alpha x_s + beta n, at levels t above s
2. low: all steps of the high student, then low steps to an exit step, with gradient only there; x_t as in DMD
3. student, every ``student_interval`` steps: g = (mu_fake(x_t) - mu_real(x_t)) / mean abs(x - mu_real(x_t)); descend
   0.5 mean (x - sg[x - g])^2
4. fake score: descend w mean (v_fake(x_t) - v*)^2; high: v* = c_x x_s + c_n n, low: n - x and w = 1
Each teacher predicts in its own range only. One expert trains at a time: first high, then low on the finished high
student's outputs; or both in turns. A rollout with fresh noise ("sde") knows x_0 at the phase's end, and noise is added
to x_0 as in DMD.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ray_distill.diffusion import phased
from ray_distill.diffusion.flow import add_noise, euler_step, renoise, velocity, x_0_from_velocity
from ray_distill.diffusion.guidance import Form, guided_x_0, standard_scale
from ray_distill.diffusion.losses import dmd_gradient, finite_samples, sample_mse, surrogate
from ray_distill.diffusion.prefix import generated
from ray_distill.diffusion.samplers import denoise, exit_at
from ray_distill.diffusion.timesteps import check_timesteps, warp
from ray_distill.methods.idle import idle_warnings
from ray_distill.methods.watch import floor_logs, student_logs
from ray_distill.types import (
    FAKE_SCORE,
    FAKE_SCORE_LOW,
    STUDENT,
    STUDENT_LOW,
    TEACHER,
    TEACHER_LOW,
    Batch,
    Experts,
    Heads,
    LossTerms,
    Need,
    Networks,
    Pull,
    Rng,
    Role,
    Sampler,
    Shared,
    Stage,
    Trajectories,
    Update,
)


@dataclass(frozen=True)
class Region:
    """Roles of one expert."""

    student: Role
    fake_score: Role


HIGH, LOW = Region(STUDENT, FAKE_SCORE), Region(STUDENT_LOW, FAKE_SCORE_LOW)


@dataclass(frozen=True)
class PhasedDMD:
    high_timesteps: tuple[float, ...] = (1000.0, 750.0)
    """Steps of the high expert, falling from 1000."""
    low_timesteps: tuple[float, ...] = (500.0, 250.0)
    """Steps of the low expert. The first is the phase's end, to which the high student's last step leads."""
    warp_denoising_step: bool = True
    """Whether the steps are raw indices, which the shift flow_shift turns into timesteps."""
    flow_shift: float = 7.0
    """Shift of warp_denoising_step."""
    boundary: float = 0.875
    """Lowest level of the high teacher's training: the pipeline's own boundary_ratio."""
    rollout: Literal["ode", "sde"] = "ode"
    """ode: the noise is kept (Euler). sde: new noise at each step."""
    schedule: Literal["high_then_low", "alternating"] = "high_then_low"
    """high_then_low: the high expert, then the low one on its samples. alternating: in turns."""
    high_steps: int = 2000
    """Steps of a run before the low expert's stage, under high_then_low."""
    student_interval: int = 5
    """Steps from one student update to the next, and of each turn under alternating."""
    teacher_guidance: tuple[float, float] = (4.0, 3.0)
    """Standard scales of the high and of the low teacher."""
    teacher_guidance_form: Form = "std"
    """std: u + s (c - u). extra: c + s (c - u)."""
    fake_score_weight: Literal["unit_floor", "none"] = "unit_floor"
    """Weight of the fake score's loss by level: unit_floor, one over the least loss for data of spread 1; none:
    1."""
    score_shift: float = 7.0
    """Shift of the noise levels at which the scores are compared."""
    margin: int = 20
    """Smallest raw distances of comparisons: of the high expert from its end, and of both experts from 0 and 1000."""
    low_levels: Literal["below", "all"] = "below"
    """Levels of the low student's comparison: below the boundary, or in half of the updates above it."""
    min_norm: float = 1e-5
    """Smallest normaliser of a sample's DMD gradient."""
    ida_decay: float = 1.0
    """Share of its weights that a fake score keeps after each update of its student, the rest are the student's; 1
    is off."""

    name: ClassVar[str] = "dmd_phased"
    roles: ClassVar[Mapping[Role, Need]] = {
        STUDENT: "trained",
        FAKE_SCORE: "trained",
        TEACHER: "frozen",
        STUDENT_LOW: "trained",
        FAKE_SCORE_LOW: "trained",
        TEACHER_LOW: "frozen",
    }
    heads: ClassVar[Mapping[Role, Heads]] = {}
    exits: ClassVar[Mapping[Role, int]] = {}
    beyond_clips: ClassVar[bool] = False
    streamed: ClassVar[None] = None
    with_sound: ClassVar[bool] = False
    uses_latents: ClassVar[bool] = False
    prepared: ClassVar[Trajectories | None] = None

    def __post_init__(self) -> None:
        for key in ("high_timesteps", "low_timesteps"):
            check_timesteps(getattr(self, key), key)
        if not 0 < self.boundary < 1:
            raise ValueError(
                f"boundary = {self.boundary}: give a level between 0 and 1, such as 0.875 for Wan 2.2 T2V A14B"
            )
        if min(self.flow_shift, self.score_shift, self.min_norm) <= 0:
            raise ValueError(
                f"flow_shift, score_shift, min_norm = {self.flow_shift}, {self.score_shift}, {self.min_norm}: all must "
                "be above 0"
            )
        if self.margin < 1:
            raise ValueError(f"margin = {self.margin}: use 1 or more, since the noise at a phase's end is 0")
        if self.high_steps < 1 or self.student_interval < 1:
            raise ValueError(
                f"high_steps, student_interval = {self.high_steps}, {self.student_interval}: both must be 1 or more"
            )
        if not 0 < self.ida_decay <= 1:
            raise ValueError(f"ida_decay = {self.ida_decay}: give the fake score's share, in (0, 1]; 1 is off")
        check_timesteps(self.sampler().timesteps, "high_timesteps and low_timesteps together")
        if self.end < self.boundary:
            raise ValueError(
                f"low_timesteps: the first is at {1000 * self.end:g}, below the boundary {1000 * self.boundary:g}, "
                "the lowest level of the high student's teacher; raise it to the boundary or above"
            )
        for name, (low, high) in self.windows.items():
            if low >= high:
                raise ValueError(
                    f"margin, score_shift, boundary = {self.margin}, {self.score_shift}, {self.boundary}: no level is "
                    f"left at which to compare the {name} (raw {low} to {high}); change one of these keys"
                )

    @property
    def end(self) -> float:
        """The level s at which the high expert's phase ends and the low expert begins."""
        return self.sampler().timesteps[len(self.high_timesteps)] / 1000

    @property
    def windows(self) -> dict[str, tuple[int, int]]:
        """Windows [min, max) of the raw score index, by the range of levels."""
        parted, end = (phased.raw_index(level, self.score_shift) for level in (self.boundary, self.end))
        most = 1000 - self.margin
        return {
            "high student": (end + self.margin, most),
            "low student": (self.margin, parted),
            "low student above the boundary": (parted, most),
        }

    def describe(self) -> str:
        cut, steps = len(self.high_timesteps), [f"{t:.5g}" for t in self.sampler().timesteps]
        order = f"high for {self.high_steps} steps, then low" if self.stages else "high and low in turns"
        scales = " and ".join(f"{scale:g}" for scale in self.scales)
        return (
            f"student steps {', '.join(steps[:cut])} (high), {', '.join(steps[cut:])} (low), {self.rollout}; {order}; "
            f"guidance u + s (c - u), 1 is off: teachers s = {scales}"
        )

    def warnings(self, bf16: bool) -> list[str]:
        why = "since warp_denoising_step = false takes the steps as they are; remove it"
        return [] if self.warp_denoising_step else idle_warnings(self, {"flow_shift": why})

    @property
    def scales(self) -> tuple[float, float]:
        """Standard scales of the high and the low teacher."""
        high, low = (standard_scale(scale, self.teacher_guidance_form) for scale in self.teacher_guidance)
        return high, low

    @property
    def teachers(self) -> Experts:
        return Experts(TEACHER, TEACHER_LOW, 1000 * self.boundary)

    @property
    def stages(self) -> tuple[Stage, ...]:
        if self.schedule == "alternating":
            return ()
        above = (TEACHER,) if self.low_levels == "all" else ()
        low = (STUDENT, STUDENT_LOW, FAKE_SCORE_LOW, *above, TEACHER_LOW)
        return Stage(0, (STUDENT, FAKE_SCORE, TEACHER)), Stage(self.high_steps, low, finished=(STUDENT,))

    @property
    def period(self) -> tuple[int, int]:
        return (self.high_steps, self.student_interval) if self.stages else (0, 2 * self.student_interval)

    def updates(self, step: int) -> tuple[Update, ...]:
        if self.stages:
            low = step >= self.high_steps
            since = step - self.high_steps if low else step
        else:
            low, since = step // self.student_interval % 2 == 1, step
        region = LOW if low else HIGH
        fake_score = Update(region.fake_score, self.low_fake_score_loss if low else self.high_fake_score_loss)
        if (since + 1) % self.student_interval:
            return (fake_score,)
        pull = Pull(region.fake_score, region.student, self.ida_decay, "ida_decay")
        pulls = (pull,) if self.ida_decay < 1 else ()
        return Update(region.student, self.low_student_loss if low else self.high_student_loss, pulls), fake_score

    def sampler(self) -> Sampler:
        """The recipe; its boundary lies half-way between the last high and the first low step."""
        steps = (*self.high_timesteps, *self.low_timesteps)
        steps, cut = (warp(steps, self.flow_shift) if self.warp_denoising_step else steps), len(self.high_timesteps)
        return Sampler(steps, self.rollout, experts=Experts(STUDENT, STUDENT_LOW, (steps[cut - 1] + steps[cut]) / 2))

    def exit_step(self, region: Region, rng: Rng, purpose: str) -> int:
        """The exit step: one of the region's steps, numbered in the whole list, equal on all ranks."""
        cut = len(self.high_timesteps)
        first, count = (0, cut) if region == HIGH else (cut, len(self.low_timesteps))
        return first + rng.control(f"{purpose}/exit", count)

    def roll_out(
        self, region: Region, networks: Networks, batch: Batch, rng: Rng, purpose: str, grad: bool
    ) -> tuple[Tensor, Tensor, float]:
        """(x, x_s, s): the x_0-prediction [B, C, T, H, W] of the exit step, with gradient only there, and without
        gradient the sample x_s at its level s, to which the scores add noise."""

        def noise(i: int) -> Tensor:
            return rng.noise(f"{purpose}/noise{i}", batch.sample_ids, batch.latent_shape)

        recipe, k, x_T, start = self.sampler(), self.exit_step(region, rng, purpose), noise(-1), 0
        if region == LOW:
            start = len(self.high_timesteps)
            with torch.no_grad():
                x_T = denoise(networks[STUDENT], recipe, x_T, batch.cond, None, noise, 0, start)
        x_t, v, sigma = exit_at(networks[region.student], recipe, x_T, batch.cond, noise, k, grad, start)
        x = x_0_from_velocity(x_t, v, sigma)
        if region == LOW or self.rollout == "sde":
            return x, x.detach(), 0.0
        return x, euler_step(x_t, v.detach(), sigma, torch.full_like(sigma, self.end)), self.end

    def above(self, region: Region, rng: Rng, purpose: str) -> bool:
        """True if this update compares from the boundary up; all samples of all ranks agree, since it calls one
        teacher."""
        return region == HIGH or (self.low_levels == "all" and rng.control(f"{purpose}/range", 2) == 1)

    def diffuse(
        self, region: Region, x_s: Tensor, end: float, batch: Batch, rng: Rng, purpose: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(x_t, t, n): ``x_s`` with noise added from the level ``end`` up to t [B], one level per sample."""
        name = "high student" if region == HIGH else "low student"
        if region == LOW and self.above(region, rng, purpose):
            name += " above the boundary"
        n = rng.noise(f"{purpose}/score_eps", batch.sample_ids, x_s.shape[1:])
        sigma = phased.phase_sigma(
            rng.uniform(f"{purpose}/score_sigma", batch.sample_ids), self.score_shift, self.windows[name]
        )
        x_t = renoise(x_s, n, torch.full_like(sigma, end), sigma) if end else add_noise(x_s, n, sigma)
        return x_t, sigma, n

    def high_student_loss(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        return self.student_loss(HIGH, networks, batch, rng)

    def low_student_loss(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        return self.student_loss(LOW, networks, batch, rng)

    def high_fake_score_loss(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        return self.fake_score_loss(HIGH, networks, batch, rng)

    def low_fake_score_loss(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        return self.fake_score_loss(LOW, networks, batch, rng)

    def student_loss(self, region: Region, networks: Networks, batch: Batch, rng: Rng) -> LossTerms:
        x, x_s, end = self.roll_out(region, networks, batch, rng, "student", grad=True)
        with torch.no_grad():
            x_t, sigma, _ = self.diffuse(region, x_s, end, batch, rng, "student")
            high = self.above(region, rng, "student")
            teacher, scale = networks[TEACHER if high else TEACHER_LOW], self.scales[0 if high else 1]
            mu_fake, _ = guided_x_0(networks[region.fake_score], x_t, sigma, batch.cond, None, 1.0)
            mu_real, gap = guided_x_0(teacher, x_t, sigma, batch.cond, batch.uncond, scale)
            generated_x, mu_fake, mu_real = (generated(each, batch.prefix) for each in (x, mu_fake, mu_real))
            g, norm = dmd_gradient(generated_x, mu_fake, mu_real, self.min_norm)
            finite = finite_samples(g)  # a broken sample gives no gradient, and is counted
            g[~finite] = 0.0
        loss, k = surrogate(generated(x, batch.prefix), g), self.exit_step(region, rng, "student")
        return LossTerms(loss, student_logs(loss, g, norm, finite, k, gap, student=generated_x, teacher=mu_real))

    def fake_score_loss(self, region: Region, networks: Networks, batch: Batch, rng: Rng) -> LossTerms:
        _, x_s, end = self.roll_out(region, networks, batch, rng, "fake_score", grad=False)
        x_t, sigma, n = self.diffuse(region, x_s, end, batch, rng, "fake_score")
        v = networks[region.fake_score](x_t, sigma, batch.cond).velocity
        v, x_s, n = (generated(each, batch.prefix) for each in (v, x_s, n))
        target = phased.phase_target(x_s, n, sigma, end) if end else velocity(x_s, n)
        each, floor = sample_mse(v, target), phased.phase_floor(sigma, end, phased.variance_of(x_s))
        if end and self.fake_score_weight == "unit_floor":
            weight = phased.unit_floor_weight(sigma, end)
            each, floor = weight * each, weight * floor
        return LossTerms(each.mean(), floor_logs(each, floor, sigma))
