"""LCM for flow models: consistency distillation of a guided teacher (arXiv 2303.01469, 2310.04378).

1. n ~ U{1 .. M} on the teacher's Euler grid;  x_n = (1 - sigma_n) x_0 + sigma_n eps
2. the teacher's Euler step, guided by w ~ U(w_min, w_max), takes x_n to x_{n-1}
3. descend d(f(x_n, sigma_n), sg f_target(x_{n-1}, sigma_{n-1})) with f(x, sigma) = x - sigma v(x, sigma)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from torch import Tensor

from ray_distill.diffusion.consistency import Phases, consistency_pair, solver_phases
from ray_distill.diffusion.flow import add_noise
from ray_distill.diffusion.guidance import Form, by_modality, standard_scale
from ray_distill.diffusion.losses import pseudo_huber, sample_mse
from ray_distill.diffusion.prefix import generated
from ray_distill.methods.modalities import Modalities
from ray_distill.methods.precision import bf16_warnings
from ray_distill.methods.watch import consistency_logs
from ray_distill.types import (
    STUDENT,
    STUDENT_EMA,
    TEACHER,
    Average,
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
class LCM(Modalities):
    euler_steps: int = 50
    """Steps of the grid on which two neighbours are compared."""
    shift: float = 3.0
    """Shift of the levels, hence of the sampler's."""
    guidance: float | tuple[float, float] = 3.0
    """Standard scale of the teacher's step, or a range from which each sample draws its own."""
    guidance_form: Form = "std"
    """std: u + s (c - u). extra: c + s (c - u)."""
    audio_guidance: float | None = None
    """Guidance of sound in the teacher's step, in the same form, for clips with sound; null: guidance."""
    loss: Literal["huber", "l2"] = "huber"
    """huber: pseudo-Huber with huber_c. l2: the square."""
    huber_c: float = 1e-3
    """Constant of the pseudo-Huber loss."""
    target_decay: float = 0.95
    """Decay of the student's average that is the target; 0: the student itself."""
    sampling_steps: int = 4
    """The student's steps."""

    name: ClassVar[str] = "lcm"
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
        self.check_modalities()
        if not 1 <= self.sampling_steps <= self.euler_steps:
            raise ValueError(
                f"sampling_steps, euler_steps = {self.sampling_steps}, {self.euler_steps}: need 1 <= sampling_steps "
                "<= euler_steps, since the student learns the levels of the Euler steps"
            )
        if self.shift <= 0 or self.huber_c <= 0:
            raise ValueError(f"shift, huber_c = {self.shift}, {self.huber_c}: both must be above 0")
        if not 0 <= self.target_decay < 1:
            raise ValueError(
                f"target_decay = {self.target_decay}: give a decay in [0, 1); 0 takes the student itself as target"
            )
        if self.scales[0] > self.scales[1]:
            raise ValueError(f"guidance = {self.guidance}: give the lower end of the range first")

    @property
    def roles(self) -> Mapping[Role, Need]:
        average: Mapping[Role, Need] = {STUDENT_EMA: Average(STUDENT, self.target_decay)} if self.target_decay else {}
        return {STUDENT: "trained", TEACHER: "frozen", **average}

    @property
    def scales(self) -> tuple[float, float]:
        """Lower and upper end of the standard scales u + s (c - u) that samples draw."""
        low, high = self.guidance if isinstance(self.guidance, tuple) else (self.guidance, self.guidance)
        return standard_scale(low, self.guidance_form), standard_scale(high, self.guidance_form)

    @property
    def audio_scale(self) -> float | None:
        """Standard scale of sound; None: that of the picture."""
        return None if self.audio_guidance is None else standard_scale(self.audio_guidance, self.guidance_form)

    @property
    def phases(self) -> Phases:
        return solver_phases(self.euler_steps, self.shift, 0.0, 1.0)

    def describe(self) -> str:
        low, high = self.scales
        steps = ", ".join(f"{t:.4g}" for t in self.sampler().timesteps)
        return (
            f"student steps {steps} (sde); the teacher's {self.euler_steps} Euler steps at guidance u + s (c - u), "
            f"1 is off: s = {low:g}{f' to {high:g}' if high > low else ''} ({self.guidance_form} as given)"
            f"{'' if self.audio_scale is None else f', of sound s = {self.audio_scale:g}'}"
        )

    def warnings(self, bf16: bool) -> list[str]:
        remedy = "Use fewer method.euler_steps or a lower method.shift"
        c = self.huber_c if self.loss == "huber" else None
        return bf16_warnings(self.phases, self.scales[0], c, remedy) if bf16 else []

    def updates(self, step: int) -> tuple[Update, ...]:
        return (Update(STUDENT, self.student_loss),)

    def sampler(self) -> Sampler:
        return Sampler(self.phases.timesteps(self.sampling_steps), "sde")

    def guide(self, batch: Batch, rng: Rng) -> float | Tensor:
        low, high = self.scales
        return low if low == high else low + (high - low) * rng.uniform("guidance", batch.sample_ids)

    def student_loss(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        assert batch.x_0 is not None
        step = self.phases.draw(rng.uniform("step", batch.sample_ids))
        x_n = add_noise(batch.x_0, rng.noise("eps", batch.sample_ids, batch.latent_shape), step.sigma)
        student, target = networks[STUDENT], networks[STUDENT_EMA if self.target_decay else STUDENT]
        scale = by_modality(self.guide(batch, rng), self.audio_scale, x_n, batch.cond)
        prediction, aim = consistency_pair(
            student, target, networks[TEACHER], x_n, step, batch.cond, batch.uncond, scale
        )
        prediction, aim, x_n, x_0 = (generated(each, batch.prefix) for each in (prediction, aim, x_n, batch.x_0))
        huber = self.loss == "huber"
        distance = partial(pseudo_huber, c=self.huber_c) if huber else sample_mse
        each = self.weighed(distance, batch, prediction, aim)
        return LossTerms(each.mean(), consistency_logs(each, prediction, aim, x_n, x_0, step.sigma))
