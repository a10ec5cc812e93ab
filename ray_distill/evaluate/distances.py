"""Distances of the student's videos to the many-step teacher's as sets: KID and the Fréchet distance of features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ray_distill.config.measures import FRECHET, KID
from ray_distill.evaluate.metrics.distribution import frechet_distance, kid, principal
from ray_distill.evaluate.samples import Samples

FEW = 1000
"""Below as many videos of each, the Fréchet distance mostly shows their number."""
GROUPS = 20  # of prompts, each left out once


def distances(
    student: Sequence[Samples], teacher: Sequence[Samples], prompts: Sequence[str]
) -> dict[str, dict[str, float]]:
    """``video_kid`` and ``video_frechet`` of the student's videos to the teacher's, each with ``value``, its 95 %
    interval ``low`` to ``high``, and the number of ``videos`` of each set; {} without a video network.

    Each seed's videos are compared with the teacher's of the next seed, and the values averaged, so that the teacher's
    own distance in the student's place is the floor. The components of the Fréchet distance are those of the teacher's
    set. The interval is 1.96 standard errors of a jackknife over groups of prompts, since a bootstrap would repeat
    videos, which no unbiased KID allows.
    """
    sets = [samples.video_features for samples in student], [samples.video_features for samples in teacher]
    whole = [features for arm in sets for features in arm if features is not None]
    if len(whole) < len(student) + len(teacher) or len(student) != len(teacher) or len(whole[0]) < 3:
        return {}
    own, others = whole[: len(student)], [*whole[len(student) + 1 :], whole[len(student)]]
    projections = [principal(features) for features in others]
    names = sorted(set(prompts))
    group = torch.tensor([names.index(prompt) % GROUPS for prompt in prompts])

    def of_kid(keep: Tensor) -> float:
        return float(np.mean([kid(a[keep], b[keep], paired=True) for a, b in zip(own, others, strict=True)]))

    def of_frechet(keep: Tensor) -> float:
        rows = zip(projections, own, others, strict=True)
        return float(np.mean([frechet_distance(project(a[keep]), project(b[keep])) for project, a, b in rows]))

    measures: Mapping[str, Callable[[Tensor], float]] = {KID: of_kid, FRECHET: of_frechet}
    return {name: {**_with_interval(of, group), "videos": len(group)} for name, of in measures.items()}


def _with_interval(measure: Callable[[Tensor], float], group: Tensor) -> dict[str, float]:
    """The value of ``measure`` on all videos, and the delete-a-group jackknife's interval; fewer than three groups, or
    fewer than three videos without one, give none."""
    value = measure(torch.ones_like(group, dtype=torch.bool))
    keeps = [group != number for number in group.unique()]
    if len(keeps) < 3 or min(int(keep.sum()) for keep in keeps) < 3:
        return {"value": value}
    without = np.array([measure(keep) for keep in keeps])
    error = float(np.sqrt((len(keeps) - 1) * np.mean((without - without.mean()) ** 2)))
    return {"value": value, "low": value - 1.96 * error, "high": value + 1.96 * error}


def against_teacher(student: Sequence[Samples], teacher: Sequence[Samples], prompts: Sequence[str]) -> dict[str, Any]:
    """The report's ``distances``, and with two seeds or more ``teacher_distances``, the teacher's between its own
    seeds: the floor that chance sets. {} without a video network."""
    measured = distances(student, teacher, prompts)
    floor = distances(teacher, teacher, prompts) if measured and len(teacher) > 1 else {}
    return {**({"distances": measured} if measured else {}), **({"teacher_distances": floor} if floor else {})}


def small(measured: Mapping[str, Mapping[str, float]], floor: Mapping[str, Mapping[str, float]]) -> str | None:
    """A warning for distances of few videos; None for enough."""
    count = int(measured[FRECHET]["videos"]) if FRECHET in measured else FEW
    if count >= FEW:
        return None
    chance = f", beside its floor of {floor[KID]['value']:.3g}" if KID in floor else ""
    return (
        f"{FRECHET} and {KID} compare {count} videos with {count}, and below {FEW:,} the Fréchet distance of equal "
        f"laws is far above 0: judge by {KID}{chance}, or sample more prompts and seeds"
    )
