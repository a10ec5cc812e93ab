"""The objective of a trial: a weighted sum of what its validations measure, behind constraints; light to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_distill.config.measures import Bounds

BEHIND = 1e9
"""Added to the score of a trial that breaks a constraint: above every weighted sum."""


@dataclass(frozen=True)
class Objective:
    """``weights`` of the numbers whose sum trials make small, and ``constraints`` on numbers, by name."""

    weights: Mapping[str, float]
    constraints: Mapping[str, Bounds]

    @property
    def label(self) -> str:
        """The heading of tables and plots."""
        return "FD" if dict(self.weights) == {"frechet": 1.0} else "objective"

    def value(self, row: Mapping[str, Any]) -> float:
        """The weighted sum of a validation's ``row``; ValueError for a number that it lacks."""
        return sum(weight * _number(row, name) for name, weight in self.weights.items())

    def violation(self, row: Mapping[str, Any]) -> float:
        """The sum of the distances to what the constraints allow; 0 where ``row`` keeps them all."""
        return sum((bounds.excess(_number(row, name)) for name, bounds in self.constraints.items()), 0.0)

    def score(self, row: Mapping[str, Any]) -> float:
        """The one number that the search makes small: the value where the constraints hold, else ``BEHIND`` and the
        violation, so that a trial that breaks one ranks behind all that keep them, and the nearer one before the other
        (the feasibility rules of Deb, 2000). Both TPE and ASHA use the order of scores alone."""
        violation = self.violation(row)
        return BEHIND + violation if violation > 0 else self.value(row)

    def broken(self, row: Mapping[str, Any]) -> list[str]:
        """The constraints that ``row`` breaks, with its numbers."""
        return [
            f"{name} {row[name]:.3f}, {bounds} was asked"
            for name, bounds in self.constraints.items()
            if bounds.excess(_number(row, name)) > 0
        ]


def _number(row: Mapping[str, Any], name: str) -> float:
    if name not in row:
        raise ValueError(
            f"{name} was not measured at step {row.get('step')}: the teacher's is next to nothing, or the samples of "
            "this trial have none; take another number"
        )
    return float(row[name])
