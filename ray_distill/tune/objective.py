"""The objective of a trial: a weighted sum of its validations' measures, behind constraints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_distill.config.measures import Bounds

BEHIND = 1e9
"""Added to the score of a trial that breaks a constraint: above every weighted sum."""


@dataclass(frozen=True)
class Objective:
    """``weights`` of the sum that trials minimise, and ``constraints``, both by the name of a measure."""

    weights: Mapping[str, float]
    constraints: Mapping[str, Bounds]

    @property
    def label(self) -> str:
        """The heading of tables and plots."""
        return "FD" if dict(self.weights) == {"frechet": 1.0} else "objective"

    def lacks(self, row: Mapping[str, Any]) -> bool:
        """True if ``row`` lacks a number of the objective or of a constraint, at which its trial fails."""
        return not row.keys() >= {*self.weights, *self.constraints}

    def value(self, row: Mapping[str, Any]) -> float:
        """The weighted sum of a validation's ``row``; ValueError for a number that it lacks."""
        return sum(weight * _number(row, name) for name, weight in self.weights.items())

    def violation(self, row: Mapping[str, Any]) -> float:
        """Sum of the distances to the constraints' bounds; 0 if ``row`` keeps them all."""
        return sum((bounds.excess(_number(row, name)) for name, bounds in self.constraints.items()), 0.0)

    def score(self, row: Mapping[str, Any]) -> float:
        """The number that the search minimises: the value if the constraints hold, else ``BEHIND`` plus the violation.
        So a trial that breaks a constraint ranks behind all that keep them, and nearer ones rank before farther ones
        (the feasibility rules of Deb, 2000). TPE and ASHA use only the order of scores."""
        violation = self.violation(row)
        return BEHIND + violation if violation > 0 else self.value(row)

    def broken(self, row: Mapping[str, Any]) -> list[str]:
        """Constraints that ``row`` breaks, with its numbers."""
        return [
            f"{name} {row[name]:.3f}, and the constraint is {bounds}"
            for name, bounds in self.constraints.items()
            if bounds.excess(_number(row, name)) > 0
        ]


def _number(row: Mapping[str, Any], name: str) -> float:
    if name not in row:
        raise ValueError(
            f"{name} was not measured at step {row.get('step')}: the teacher's value is almost 0, or the samples of "
            "this trial have none; take another measure"
        )
    return float(row[name])
