"""Compare student and teacher by one metric, with the same prompts and noise, and a bootstrap over prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS, INTERVAL = 2000, (2.5, 97.5)


@dataclass(frozen=True)
class Ratio:
    """``value`` and its 95 % interval, whose ends are NaN for a single prompt."""

    value: float
    low: float
    high: float


def by_prompt(values: Sequence[float] | np.ndarray, prompts: Sequence[str]) -> dict[str, float]:
    """Mean of each prompt's ``values``, which are one per video."""
    rows: dict[str, list[float]] = {}
    for value, prompt in zip(values, prompts, strict=True):
        rows.setdefault(prompt, []).append(float(value))
    return {prompt: float(np.mean(several)) for prompt, several in rows.items()}


def mean_by_prompt(several: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over ``several``, for example sampling seeds, of each prompt's value; all have the same prompts."""
    return {prompt: float(np.mean([one[prompt] for one in several])) for prompt in several[0]}


def paired_ratio(
    student: Mapping[str, float], teacher: Mapping[str, float], least: float = 0.0, seed: int = 0
) -> Ratio:
    """R = mean_p s_p / mean_p t_p over the prompts p of both, with a percentile interval of 2,000 bootstrap draws.

    A draw takes prompts, never videos, and the same prompts for both. ValueError if the two have other prompts, or if
    the teacher's mean is not above ``least``: a static teacher gives no scale of motion.
    """
    s, t, rows = _arms(student, teacher, seed)
    if not t.mean() > least:
        raise ValueError(f"the teacher's mean is {t.mean():.3g}, which must be above {least:g} for a ratio")
    # A draw may contain only prompts whose value for the teacher is 0; it gives no ratio.
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = s[rows].mean(1) / t[rows].mean(1)
    return Ratio(float(s.mean() / t.mean()), *_interval(draws[np.isfinite(draws)], len(s)))


def paired_difference(student: Mapping[str, float], teacher: Mapping[str, float], seed: int = 0) -> Ratio:
    """mean_p s_p - mean_p t_p with an interval of the same draws, for rates, since a teacher's rate may be 0."""
    s, t, rows = _arms(student, teacher, seed)
    return Ratio(float((s - t).mean()), *_interval((s - t)[rows].mean(1), len(s)))


def _interval(draws: np.ndarray, prompts: int) -> tuple[float, float]:
    """The percentile interval of ``draws``; NaN for one prompt, all of whose draws are equal."""
    if prompts < 2:
        return float("nan"), float("nan")
    low, high = np.percentile(draws, INTERVAL)
    return float(low), float(high)


def _arms(
    student: Mapping[str, float], teacher: Mapping[str, float], seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both arms [prompts] in one order, and the bootstrap's rows [draws, prompts]."""
    if student.keys() != teacher.keys() or not student:
        raise ValueError(f"a ratio needs the same prompts: the student has {len(student)}, the teacher {len(teacher)}")
    s, t = (np.array([arm[prompt] for prompt in sorted(arm)]) for arm in (student, teacher))
    return s, t, np.random.default_rng(seed).integers(len(s), size=(DRAWS, len(s)))
