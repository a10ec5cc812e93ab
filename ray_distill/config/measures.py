"""Measures of videos by name, and ratios to the teacher's; docs/metrics.md has each one's unit and definition."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Literal, get_args

from pydantic import model_validator

from ray_distill.settings import Section

MeasureName = Literal[
    "motion",
    "motion_top",
    "moving",
    "saturation",
    "chroma",
    "clipped",
    "contrast",
    "sharpness",
    "flicker",
    "jitter",
]
ALL: tuple[MeasureName, ...] = get_args(MeasureName)
LEAST: Mapping[str, float | None] = {
    "motion": 0.005,
    "motion_top": 0.005,
    "moving": None,
    "saturation": 0.01,
    "chroma": 0.005,
    "clipped": None,
    "contrast": 0.005,
    "sharpness": 0.001,
    "flicker": 0.001,
    "jitter": 0.001,
    "subject_consistency": 0.01,
    "background_consistency": 0.01,
    "text_agreement": 0.01,
    "video_diversity": 0.001,
    "first_frame_error": None,
}
"""Largest mean of the teacher that makes a ratio meaningless. None marks a rate, a share of videos or pixels that may
be 0 or 1, and an error that may be 0: reports give its difference to the teacher's, not a ratio."""


DIVERSITY = "diversity"
OF_METRIC = ("frechet", "accuracy", DIVERSITY)
"""Numbers of samples that need ``evaluate.metric``."""
KID, FRECHET = "video_kid", "video_frechet"
OF_NETWORK: Mapping[str, str] = {
    "subject_consistency": "subject",
    "background_consistency": "background",
    "text_agreement": "text",
    "video_diversity": "video",
    KID: "video",
    FRECHET: "video",
}
"""Numbers of samples that need a network of ``evaluate.networks``, each with the network's key."""
FIRST_FRAME = "first_frame_error"
"""The measure of videos that begin from a picture."""
DISTANCES = (KID, FRECHET)
"""Those that compare the student's videos with the many-step teacher's as sets."""


def ratio_name(measure: str) -> str:
    """Name of the student's ``measure`` against the teacher's in rows of validations and in goals: a ratio, or a rate's
    difference."""
    return f"{measure}_difference" if LEAST.get(measure, 0.0) is None else f"{measure}_ratio"


RATED = (*ALL, DIVERSITY, FIRST_FRAME, *(name for name in OF_NETWORK if name not in DISTANCES))
MEASURE_OF: Mapping[str, str] = {ratio_name(measure): measure for measure in RATED}
"""The compared measure, by the comparison's name."""


def check_names(
    names: Iterable[str],
    measured: Collection[str],
    metric: bool,
    teacher: bool,
    networks: Collection[str],
    pictures: Callable[[], bool] = lambda: True,
) -> None:
    """ValueError for the first of ``names`` that a validation does not measure, given ``measured`` (evaluate.metrics),
    the keys of its ``networks``, whether it has a ``metric`` and a ``teacher``, and a function that tells whether
    videos begin from ``pictures``: it reads the pipeline's folder, which most names do not need."""
    numbers = (*OF_METRIC, *ALL, FIRST_FRAME, *OF_NETWORK, *MEASURE_OF)
    for name in names:
        if name not in numbers:
            raise ValueError(f"{name!r} is not a measure of samples; choose from {', '.join(numbers)}")
        measure = MEASURE_OF.get(name, name)
        if name in MEASURE_OF and not teacher:
            raise ValueError(
                f"{name} compares with the teacher, and this method has no teacher; use {measure}, or remove {name}"
            )
        if name in DISTANCES and not teacher:
            raise ValueError(f"{name} compares with the teacher, and this method has no teacher; remove {name}")
        if measure in OF_METRIC and not metric:
            raise ValueError(f"{name} needs evaluate.metric; set it, or remove {name}")
        if measure == FIRST_FRAME:
            if not pictures():
                raise ValueError(f"{name} needs videos that begin from a picture; remove {name}")
        elif measure in OF_NETWORK:
            if OF_NETWORK[measure] not in networks:
                raise ValueError(f"{name} needs evaluate.networks.{OF_NETWORK[measure]}; set it, or remove {name}")
        elif measure not in OF_METRIC and measure not in measured:
            raise ValueError(f"{name} needs {measure} among evaluate.metrics = [{', '.join(measured)}]; add {measure}")


class Bounds(Section):
    """Smallest and largest value; at least one is set."""

    at_least: float | None = None
    """Smallest value; null: no bound."""
    at_most: float | None = None
    """Largest value; null: no bound."""

    @model_validator(mode="after")
    def _bound(self) -> Bounds:
        if self.at_least is None and self.at_most is None:
            raise ValueError("a bound needs at_least, at_most or both")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(
                f"at_least = {self.at_least} is above at_most = {self.at_most}; lower the first, or raise the second"
            )
        return self

    def excess(self, value: float) -> float:
        """Distance of ``value`` to the nearest allowed value; 0 if it is allowed."""
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        return max(low - value, value - high, 0.0)

    def __str__(self) -> str:
        words = (("at least", self.at_least), ("at most", self.at_most))
        return " and ".join(f"{word} {value:g}" for word, value in words if value is not None)
