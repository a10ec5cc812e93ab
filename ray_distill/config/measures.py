"""Measures of videos that need no network: names, units, and how each is held against the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args


@dataclass(frozen=True)
class Measure:
    """Unit of a number a video; and the teacher's mean up to which a ratio to it says nothing, None for a rate.

    A rate, a share of videos or pixels, may well be 0 or 1: its difference to the teacher's is reported, not a ratio.
    """

    unit: str
    least: float | None


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
MEASURES: Mapping[str, Measure] = {
    "motion": Measure("short sides a second", 0.005),
    "motion_top": Measure("short sides a second", 0.005),
    "moving": Measure("share of videos", None),
    "saturation": Measure("share", 0.01),
    "chroma": Measure("share", 0.005),
    "clipped": Measure("share of values", None),
    "contrast": Measure("share of white", 0.005),
    "sharpness": Measure("share of white", 0.001),
    "flicker": Measure("share of white", 0.001),
    "jitter": Measure("share of white", 0.001),
}
