"""DMD2: distribution matching distillation with backward simulation (arXiv 2311.18828, 2405.14867).

1. roll out: all ranks share the exit step k; steps before k run without gradient; step k gives x, its x_0-prediction
2. diffuse x to a score timestep of the window: x_s = (1 - s) x + s eps
3. student, every ``student_interval`` steps: g = (mu_fake(x_s) - mu_real(x_s)) / mean abs(x - mu_real(x_s)); descend
   0.5 mean (x - sg[x - g])^2, whose gradient at x is g / N; picture and sound each have their own mean, here and in g
4. fake score: descend mean (v_fake(x_s) - (eps - x))^2 on a rollout without gradient
With ``projection`` g loses its part along x - mu_fake (PDMD, arXiv 2609.35768). With ida_decay below 1 the fake score
also follows the student's weights (SenseFlow, arXiv 2506.00523).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ray_distill.diffusion.flow import add_noise, expand, velocity, x_0_from_velocity
from ray_distill.diffusion.guidance import guided_x_0
from ray_distill.diffusion.losses import (
    dmd_gradient,
    finite_samples,
    gaussian_floor,
    sample_mse,
    score_weight,
    surrogate,
    without_residual,
)
from ray_distill.diffusion.prefix import generated, generated_places
from ray_distill.diffusion.samplers import predictions, simulate
from ray_distill.diffusion.timesteps import check_timesteps, warp
from ray_distill.methods.anchor import Anchor
from ray_distill.methods.consistency import Consistency
from ray_distill.methods.exits import Exits
from ray_distill.methods.idle import idle_warnings
from ray_distill.methods.modalities import modality_logs, total
from ray_distill.methods.scores import Scores
from ray_distill.methods.watch import floor_logs, projection_logs, student_logs
from ray_distill.types import (
    FAKE_SCORE,
    STUDENT,
    TEACHER,
    AtSave,
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
class DMD(Exits, Anchor, Consistency, Scores):
    timesteps: tuple[float, ...] = (1000.0, 757.0, 522.0)
    """The student's steps, falling from 1000; training, validation and export share them."""
    warp_denoising_step: bool = False
    """Whether timesteps are raw indices, which the shift flow_shift turns into timesteps."""
    flow_shift: float = 1.0
    """Shift of warp_denoising_step."""
    rollout: Literal["sde", "ode"] = "sde"
    """sde: new noise at each step. ode: the noise is kept (Euler)."""
    backward_simulation: bool = True
    """Whether a step sees the student's own samples; false: noised clips."""
    student_interval: int = 5
    """Steps from one student update to the next; the fake score is updated at each step."""
    student_turn: Literal["joins", "replaces"] = "joins"
    """joins: a step of the student also updates the fake score. replaces: it does not."""
    reuse_rollout: bool = False
    """Whether the fake score learns from the student's rollout in a step of both."""
    ida_decay: float = 1.0
    """Share of its weights that the fake score keeps after each student update, the rest are the student's; 1 is
    off."""
    projection: bool = False
    """Whether the DMD gradient loses its part along the fake score's residual (PDMD)."""

    name: ClassVar[str] = "dmd"
    roles: ClassVar[Mapping[Role, Need]] = {STUDENT: "trained", FAKE_SCORE: "trained", TEACHER: "frozen"}
    stages: ClassVar[tuple[Stage, ...]] = ()
    teachers: ClassVar[Experts | None] = None

    def __post_init__(self) -> None:
        check_timesteps(self.timesteps)
        if self.flow_shift <= 0:
            raise ValueError(f"flow_shift = {self.flow_shift}: must be above 0")
        self.check_scores(self.sampler().timesteps)
        self.check_exits(len(self.timesteps))
        self.check_anchor(len(self.timesteps))
        self.check_consistency(len(self.timesteps), self.rollout, self.backward_simulation)
        self.check_modalities()
        replaces = self.student_turn == "replaces"
        if self.student_interval < 1 + replaces:
            enough = "2 or more, or the fake score never has a turn" if replaces else "1 (each step) or more"
            raise ValueError(f"student_interval = {self.student_interval}: use {enough}")
        if self.reuse_rollout and replaces:
            raise ValueError(
                "reuse_rollout = True: with student_turn = replaces no fake-score update follows; remove one of the "
                "two keys"
            )
        if not 0 < self.ida_decay <= 1:
            raise ValueError(f"ida_decay = {self.ida_decay}: give the fake score's share, in (0, 1]; 1 is off")
        if self.ida_decay < 1 and self.exit_embedding:
            raise ValueError(
                f"ida_decay = {self.ida_decay}: it needs two networks of one architecture, and exit_embedding = True "
                "gives the fake score a part that the student lacks; remove one of the two keys"
            )

    @property
    def heads(self) -> Mapping[Role, Heads]:
        return {}

    @property
    def prepared(self) -> Trajectories | None:
        return None

    @property
    def exits(self) -> Mapping[Role, int]:
        return {FAKE_SCORE: len(self.timesteps)} if self.exit_embedding else {}

    @property
    def beyond_clips(self) -> bool:
        return False

    @property
    def streamed(self) -> AtSave | None:
        return None

    @property
    def uses_latents(self) -> bool:
        return not self.backward_simulation

    def describe(self) -> str:
        steps = ", ".join(f"{t:g}" for t in self.sampler().timesteps)
        return f"student steps {steps} ({self.rollout}); {self.describe_scores()}"

    def warnings(self, bf16: bool) -> list[str]:
        return idle_warnings(self, self.idle_keys())

    def idle_keys(self) -> dict[str, str]:
        """Keys that have no effect beside the others, each with the reason and the remedy."""
        reasons = {}
        if not self.warp_denoising_step:
            reasons["flow_shift"] = (
                "since timesteps are taken as they are; set method.warp_denoising_step=true if they are raw indices, "
                "else remove it"
            )
        if self.ts_schedule:
            reasons["min_score_timestep"] = "since ts_schedule sets the lowest level; remove one of the two keys"
        if self.student_exits and not any(self.student_exits[1:]):
            reasons["consistency_weight"] = (
                "since student_exits ends each rollout at its first step; remove one of the two keys"
            )
        if not self.diversity_weight:
            why = "since diversity_weight = 0 leaves the anchor out; remove it"
            reasons |= dict.fromkeys(("diversity_steps", "diversity_shift"), why)
        return reasons

    def updates(self, step: int) -> tuple[Update, ...]:
        pulls = (Pull(FAKE_SCORE, STUDENT, self.ida_decay, "ida_decay"),) if self.ida_decay < 1 else ()
        student = Update(STUDENT, self.student_loss, pulls)
        fake_score = Update(FAKE_SCORE, self.fake_score_loss)
        if (step + 1) % self.student_interval:
            return (fake_score,)
        return (student,) if self.student_turn == "replaces" else (student, fake_score)

    @property
    def period(self) -> tuple[int, int]:
        return 0, self.student_interval

    def sampler(self) -> Sampler:
        return Sampler(
            warp(self.timesteps, self.flow_shift) if self.warp_denoising_step else self.timesteps, self.rollout
        )

    def exit_step(self, rng: Rng, purpose: str) -> int:
        return self.draw_exit(rng, len(self.timesteps), purpose, "exit")

    def exit_window(self, rng: Rng, purpose: str) -> tuple[int, int]:
        return self.score_levels(self.sampler().timesteps, self.exit_step(rng, purpose))

    def roll_out(self, networks: Networks, batch: Batch, rng: Rng, purpose: str, grad: bool) -> Tensor:
        """x [B, C, T, H, W]: the student's x_0-prediction at the exit step, with gradient there and only there."""

        def noise(i: int) -> Tensor:
            return rng.noise(f"{purpose}/noise{i}", batch.sample_ids, batch.latent_shape)

        x_T, student, recipe, k = noise(-1), networks[STUDENT], self.sampler(), self.exit_step(rng, purpose)
        if self.backward_simulation or k == 0:
            return simulate(student, recipe, x_T, batch.cond, noise, k, grad)
        assert batch.x_0 is not None  # without simulation steps after the first see real latents
        sigma = x_T.new_full((len(x_T),), recipe.timesteps[k] / 1000)
        x_t = add_noise(batch.x_0, x_T, sigma)
        with torch.set_grad_enabled(grad):
            return x_0_from_velocity(x_t, student(x_t, sigma, batch.cond).velocity, sigma)

    def scored(self, batch: Batch, rng: Rng, purpose: str) -> Batch:
        """``batch`` for the losses on the rollout for ``purpose``."""
        return batch

    def student_loss(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        if self.consistency_weight:
            x_T, k = rng.noise("student/noise-1", batch.sample_ids, batch.latent_shape), self.exit_step(rng, "student")
            rollout = predictions(networks[STUDENT], self.sampler(), x_T, batch.cond, k)
        else:
            rollout = [self.roll_out(networks, batch, rng, "student", grad=True)]
        x = rollout[-1]
        if self.reuse_rollout:
            shared["x"] = x.detach()
        terms = self.match(x, networks, batch, rng, shared)
        if self.consistency_weight:
            apart = self.consistency_loss(batch, rollout)
            logs = {**terms.logs, "consistency_loss": apart.detach()}
            terms = LossTerms(terms.loss + self.consistency_weight * apart, logs)
        if not self.diversity_weight:
            return terms
        eps = rng.noise("student/noise-1", batch.sample_ids, batch.latent_shape)  # the rollout's own
        scales = self.teacher_scale, self.audio_scale
        loss = self.anchor_loss(networks, batch, eps, self.sampler().timesteps, *scales)
        return LossTerms(terms.loss + self.diversity_weight * loss, {**terms.logs, "diversity_loss": loss.detach()})

    def match(self, x: Tensor, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        """The student's loss on its rollout ``x``."""
        batch = self.scored(batch, rng, "student")
        with torch.no_grad():
            x_s, sigma, _ = self.diffuse(x, batch, rng, "student", self.exit_window(rng, "student"))
            conditions = self.with_exit(batch, self.exit_step(rng, "student"))
            mu_fake, _ = guided_x_0(networks[FAKE_SCORE], x_s, sigma, *conditions, self.fake_score_scale)
            scale = self.teacher_scales(batch, x_s)
            mu_real, gap = guided_x_0(networks[TEACHER], x_s, sigma, batch.cond, batch.uncond, scale)
            generated_x, mu_fake, mu_real = (generated(each, batch.prefix) for each in (x, mu_fake, mu_real))
            g, norm, more = self.direction(generated_x, mu_fake, mu_real, sigma, batch)
            if (weight := self.weight(x_s, sigma, networks, batch)) is not None:
                g = g * expand(weight, g)
                more |= {"divergence_weight": weight}
            finite = finite_samples(g)  # a broken sample gives no gradient, and is counted
            g[~finite] = 0.0
        losses = self.by_modality(surrogate, batch, generated(x, batch.prefix), g)
        loss = total(losses)
        real = {"teacher": mu_real} if batch.x_0 is None else {"data": generated(batch.x_0, batch.prefix)}
        logs = student_logs(loss, g, norm, finite, self.exit_step(rng, "student"), gap, student=generated_x, **real)
        return LossTerms(loss, logs | more | modality_logs("dmd", losses))

    def direction(
        self, x: Tensor, mu_fake: Tensor, mu_real: Tensor, sigma: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(g [B, C, T, H, W], n [B], logs) of generated latents, computed for each modality; n is the smaller of their
        normalisers."""

        def one(x: Tensor, mu_fake: Tensor, mu_real: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            g, norm = dmd_gradient(x, mu_fake, mu_real, self.min_norm)
            if not self.projection:
                return g, norm, {}
            g, kept, cosine = without_residual(g, x - mu_fake)
            return g, norm, projection_logs(kept, cosine, sigma)

        if not batch.modalities:
            return one(x, mu_fake, mu_real)
        parts: list[tuple[Tensor, Tensor]] = []
        more: dict[str, Tensor] = {}
        for name, where in generated_places(batch.modalities, batch.prefix).items():
            g, norm, logs = one(x[:, :, where], mu_fake[:, :, where], mu_real[:, :, where])
            parts.append((g, norm))
            more |= {f"{name}_{key}": value for key, value in logs.items()} | {f"dmd_norm_{name}_median": norm}
        return torch.cat([g for g, _ in parts], dim=2), torch.stack([n for _, n in parts]).amin(0), more

    def weight(self, x_s: Tensor, sigma: Tensor, networks: Networks, batch: Batch) -> Tensor | None:
        """Weight [B] of each sample's gradient; None weighs all samples alike."""
        return None

    def fake_samples(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> tuple[Tensor, str]:
        """Samples x for the fake score, without gradient, and the purpose of their draws."""
        if "x" in shared:
            return shared["x"], "student"
        return self.roll_out(networks, batch, rng, "fake_score", grad=False), "fake_score"

    def fake_score_loss(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        x, source = self.fake_samples(networks, batch, rng, shared)
        batch = self.scored(batch, rng, source)
        x_s, sigma, eps = self.diffuse(x, batch, rng, "fake_score", self.exit_window(rng, source))
        cond, _ = self.with_exit(batch, self.exit_step(rng, source))
        v = networks[FAKE_SCORE](x_s, sigma, cond).velocity
        x, v, aim = (generated(each, batch.prefix) for each in (x, v, velocity(x, eps)))
        weight = score_weight(sigma, self.fake_score_target)
        losses = self.by_modality(sample_mse, batch, v, aim)
        each = weight * total(losses)
        floor = weight * self.weighed(lambda x: gaussian_floor(x, sigma), batch, x)
        return LossTerms(each.mean(), floor_logs(each, floor, sigma) | modality_logs("fake_score", losses))
