"""DCM, the dual-expert consistency model (arXiv 2506.03123): the semantic expert, for the levels of high noise.

1. k ~ U{the expert's steps} of the teacher's Euler grid;  x_k = (1 - sigma_k) x_0 + sigma_k eps
2. the teacher's Euler step with c + w (c - u) takes x_k to x_prev, one level below
3. f(x, sigma) = x + (sigma_e - sigma) v, e the end of the phase:  pred = f_student(x_k), aim = sg f_target(x_prev)
4. descend mean (sqrt((pred - aim)^2 + c^2) - c) + mean (D pred - D aim)^2, D the difference of frames ``lag`` apart
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor

from ray_distill.diffusion.consistency import Phases, consistency_pair, solver_phases
from ray_distill.diffusion.flow import add_noise
from ray_distill.diffusion.guidance import Form, standard_scale
from ray_distill.diffusion.losses import frame_differences, mse, pseudo_huber
from ray_distill.diffusion.prefix import generated
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

END = 1 / 1000
"""Raw level at which the grid ends."""
BOUNDARIES = {"wan": 0.70, "hunyuan": 0.76}
"""Raw levels: steps 35 and 38 of DCM's 50."""


@dataclass(frozen=True)
class DCM:
    euler_steps: int = field(default=50, metadata={"elsewhere": "euler_timesteps"})
    """Steps of the grid on which two neighbours are compared."""
    shift: float = 17.0
    """Shift of the levels, hence of the sampler's."""
    multiphase: int | tuple[float, ...] = 1
    """Number of even phases, or the raw levels at which phases end, other than the end of the range."""
    boundary: Literal["wan", "hunyuan"] | float = "wan"
    """Raw level that separates the experts; 0: one expert for all levels."""
    distill_cfg: float = 5.0
    """Guidance of the teacher's step, in the form of distill_cfg_form."""
    distill_cfg_form: Form = "extra"
    """std: u + s (c - u). extra: c + s (c - u)."""
    huber_c: float = 1e-3
    """Constant of the pseudo-Huber loss."""
    temporal_lag: int = 3
    """Latent frames between the two that the term compares; with 0, or a clip that is not longer, there is no term."""
    target_decay: float = 0.0
    """Decay of the student's average that is the target; 0: the student itself."""
    sampling_steps: int = 6
    """Steps of both experts together, half for each."""

    name: ClassVar[str] = "dcm_semantic"
    uses_latents: ClassVar[bool] = True
    prepared: ClassVar[Trajectories | None] = None
    period: ClassVar[tuple[int, int]] = 0, 1
    stages: ClassVar[tuple[Stage, ...]] = ()
    teachers: ClassVar[Experts | None] = None
    exits: ClassVar[Mapping[Role, int]] = {}
    beyond_clips: ClassVar[bool] = False
    streamed: ClassVar[None] = None
    with_sound: ClassVar[bool] = False

    @property
    def heads(self) -> Mapping[Role, Heads]:
        return {}

    def __post_init__(self) -> None:
        if self.euler_steps < 1 or 1000 % self.euler_steps:
            raise ValueError(f"euler_steps = {self.euler_steps}: use a divisor of 1000, such as 25, 50 or 100")
        if self.shift <= 0 or self.huber_c <= 0 or self.temporal_lag < 0:
            raise ValueError(
                f"shift, huber_c, temporal_lag = {self.shift}, {self.huber_c}, {self.temporal_lag}: "
                "need shift and huber_c above 0 and a lag of 0 or more"
            )
        if not (self.split == 0 or END < self.split < 1):
            raise ValueError(
                f"boundary = {self.boundary}: give 'wan', 'hunyuan', a raw level in ({END:g}, 1), or 0 for none"
            )
        if not 0 <= self.target_decay < 1:
            raise ValueError(
                f"target_decay = {self.target_decay}: give a decay in [0, 1); 0 takes the student itself as target"
            )
        if self.sampling_steps < 1 + (self.split > 0):
            raise ValueError(
                f"sampling_steps = {self.sampling_steps}: give each expert at least one step, and 2 or more in all"
            )
        self.describe()  # raises unless phases and steps fit the grid

    @property
    def roles(self) -> Mapping[Role, Need]:
        average: Mapping[Role, Need] = {STUDENT_EMA: Average(STUDENT, self.target_decay)} if self.target_decay else {}
        return {STUDENT: "trained", TEACHER: "frozen", **average}

    @property
    def split(self) -> float:
        """The raw boundary, whatever the number of Euler steps."""
        return BOUNDARIES[self.boundary] if isinstance(self.boundary, str) else self.boundary

    @property
    def scale(self) -> float:
        """Standard scale: u + s (c - u), 1 is off."""
        return standard_scale(self.distill_cfg, self.distill_cfg_form)

    @property
    def phases(self) -> Phases:
        """Steps of the solver that this expert learns."""
        return solver_phases(self.euler_steps, self.shift, self.split or END, 1.0, self.multiphase)

    def describe(self) -> str:
        low, high = (1000 * self.phases.levels[i] for i in (0, -1))
        steps = ", ".join(f"{t:.4g}" for t in self.sampler().timesteps)
        return (
            f"timesteps {low:.5g} to {high:.5g}, phases: {len(self.phases.edges)}; student steps {steps} (ode); the "
            f"teacher's {self.euler_steps} Euler steps at guidance u + s (c - u), 1 is off: s = {self.scale:g} "
            f"(from {self.distill_cfg:g} {self.distill_cfg_form})"
        )

    def warnings(self, bf16: bool) -> list[str]:
        remedy = "Use more phases (method.multiphase) or fewer method.euler_steps"
        return bf16_warnings(self.phases, self.scale, self.huber_c, remedy) if bf16 else []

    def updates(self, step: int) -> tuple[Update, ...]:
        return (Update(STUDENT, self.student_loss),)

    def sampler(self) -> Sampler:
        """This expert's recipe. Below the boundary the teacher predicts, since this expert never learns those
        levels."""
        return self.recipe(STUDENT, TEACHER)

    def recipe(self, high: Role, low: Role) -> Sampler:
        """Recipe of both experts: Euler steps on the grid, half of them for each expert. The boundary lies half-way
        between the last level of ``high`` and the first of ``low``."""
        upper = solver_phases(self.euler_steps, self.shift, self.split or END, 1.0)
        if not self.split:
            return Sampler(upper.timesteps(self.sampling_steps), "ode")
        lower, half = solver_phases(self.euler_steps, self.shift, END, self.split), self.sampling_steps // 2
        experts = Experts(high, low, 500 * (upper.levels[0] + upper.levels[1]))
        timesteps = upper.timesteps(self.sampling_steps - half) + lower.timesteps(half)
        return Sampler(timesteps, "ode", experts=experts)

    def student_loss(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        return self.consistency(networks, batch, rng)[2]

    def consistency(self, networks: Networks, batch: Batch, rng: Rng) -> tuple[Tensor, Tensor, LossTerms]:
        """(pred, aim, the loss of their difference)."""
        assert batch.x_0 is not None
        step = self.phases.draw(rng.uniform("step", batch.sample_ids))
        eps = rng.noise("eps", batch.sample_ids, batch.latent_shape)
        student, target = networks[STUDENT], networks[STUDENT_EMA if self.target_decay else STUDENT]
        x_k = add_noise(batch.x_0, eps, step.sigma)
        pred, aim = consistency_pair(
            student, target, networks[TEACHER], x_k, step, batch.cond, batch.uncond, self.scale
        )
        x_e = add_noise(batch.x_0, eps, step.sigma_end)
        pred_new, aim_new, x_k, x_e = (generated(each, batch.prefix) for each in (pred, aim, x_k, x_e))
        each = pseudo_huber(pred_new, aim_new, self.huber_c)
        logs = consistency_logs(each, pred_new, aim_new, x_k, x_e, step.sigma)
        loss, lag = each.mean(), self.temporal_lag
        if 0 < lag < pred_new.shape[2]:
            temporal = mse(frame_differences(pred_new, lag), frame_differences(aim_new, lag))
            loss, logs["temporal_loss"] = loss + temporal, temporal.detach()
        return pred, aim, LossTerms(loss, logs)
