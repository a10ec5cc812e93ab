"""The protocol of a distillation method, and the stages and trajectories that it may declare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from ray_distill.types.roles import Heads, Need, Role
from ray_distill.types.sampling import Experts, Sampler
from ray_distill.types.step import Update


@dataclass(frozen=True)
class Stage:
    """A stage of a run, from the step ``start`` to the start of the next stage: training holds ``roles`` alone.

    An earlier stage trained the roles in ``finished``; they stay fixed, with the weights that sampling uses.
    """

    start: int
    roles: tuple[Role, ...]
    finished: tuple[Role, ...] = ()


@dataclass(frozen=True)
class Trajectories:
    """Trajectories of the teacher that a preparation makes: ``steps`` of Euler at ``shift``, with ``guidance`` as
    u + s (c - u), for sound ``audio_guidance`` unless it is None. The preparation keeps the states at the timesteps
    ``levels``."""

    steps: int
    shift: float
    guidance: float
    levels: tuple[float, ...]
    audio_guidance: float | None = None


AtSave = Literal["saved", "restarted"]
"""Treatment of streamed rollouts at a save: the checkpoint keeps them, or new ones begin after it."""


class Method(Protocol):
    """A distillation method: a frozen dataclass that is also its own configuration.

    A property may be a class variable if no configuration changes it.
    """

    name: ClassVar[str]

    @property
    def roles(self) -> Mapping[Role, Need]:
        """The demand on each role. An average comes after the role that it averages."""
        ...

    @property
    def uses_latents(self) -> bool:
        """True if batches must contain x_0."""
        ...

    @property
    def with_sound(self) -> bool:
        """True if the method learns clips of picture and sound, with a loss for each modality."""
        ...

    @property
    def heads(self) -> Mapping[Role, Heads]:
        """The ``roles`` that are heads on another role; most methods have none."""
        ...

    @property
    def prepared(self) -> Trajectories | None:
        """Trajectories that a preparation makes for the method; most methods need none."""
        ...

    @property
    def exits(self) -> Mapping[Role, int]:
        """Number of exits, for each role that learns at which step its samples left the student; most methods have
        none. Calls of such a role pass the step under ``exit`` [B] in the conditioning."""
        ...

    @property
    def beyond_clips(self) -> bool:
        """True if rollouts are longer than the clips of the data, and so extend beyond conditions in their frames."""
        ...

    @property
    def streamed(self) -> AtSave | None:
        """Treatment of streamed rollouts at a save; None if each update makes its own rollout."""
        ...

    def updates(self, step: int) -> tuple[Update, ...]:
        """The descents of this step, in order: a pure function of the step."""
        ...

    @property
    def period(self) -> tuple[int, int]:
        """(first, length): updates repeat every ``length`` steps from step 0 up to ``first``, and anew from ``first``
        on."""
        ...

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Stages of a run with different roles; (): training holds all roles from the first step to the last."""
        ...

    @property
    def teachers(self) -> Experts | None:
        """The two teachers that share the noise levels; None: one teacher covers all levels."""
        ...

    def describe(self) -> str:
        """One line for the head of a run, on what the keys do not show."""
        ...

    def warnings(self, bf16: bool) -> list[str]:
        """One warning, with its remedy, for each setting that has no effect or a harmful one. ``bf16``: a network
        computes in bf16."""
        ...

    def sampler(self) -> Sampler:
        """The recipe that rollout, validation and export share."""
        ...
