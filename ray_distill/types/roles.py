"""Roles of a method's networks, and the demands of a method on each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Role = str
STUDENT: Role = "student"
TEACHER: Role = "teacher"
FAKE_SCORE: Role = "fake_score"
STUDENT_EMA: Role = "student_ema"
DISCRIMINATOR: Role = "discriminator"
STUDENT_LOW: Role = "student_low"
TEACHER_LOW: Role = "teacher_low"
FAKE_SCORE_LOW: Role = "fake_score_low"
LOW: frozenset[Role] = frozenset({STUDENT_LOW, TEACHER_LOW, FAKE_SCORE_LOW})
"""Roles of the expert of low noise: in a pipeline of two experts they begin at its transformer_2."""


@dataclass(frozen=True)
class Average:
    """A role that is the fp32 average of the trained role ``of``: e <- d e + (1 - d) p after each successful update of
    ``of``. It uses the settings of ``of``, without an optimizer, and receives no gradient."""

    of: Role
    decay: float


@dataclass(frozen=True)
class Start:
    """The first weights of the trained role ``of``. Sampling alone needs them: training holds no such network."""

    of: Role


Need = Literal["trained", "frozen"] | Average | Start
"""A method's demand on a role. RunConfig decides full or LoRA, ZeRO stage and precision."""


@dataclass(frozen=True)
class Heads:
    """A role of small heads, one on each chosen block of the role ``of``; each run draws their weights anew.

    ``blocks`` maps the number of blocks to the chosen ones, numbered from 0.
    """

    of: Role
    blocks: Callable[[int], Sequence[int]]
