"""Measures of videos that need no network, by name; docs/metrics.md has each one's unit and definition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

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
}
"""The teacher's mean up to which a ratio to it says nothing; None for a rate, a share of videos or pixels that may well
be 0 or 1: its difference to the teacher's is reported, not a ratio."""
