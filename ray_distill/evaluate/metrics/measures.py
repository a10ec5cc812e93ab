"""Measure videos by name, without a network: `evaluate.metrics` chooses the names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor

from ray_distill.config.measures import ALL, MeasureName
from ray_distill.evaluate.metrics.flow import Flow, farneback, motions
from ray_distill.evaluate.metrics.video import colours, flickers, light

GROUPS: Mapping[Callable[[np.ndarray, float], dict[str, float]], tuple[MeasureName, ...]] = {
    motions: ("motion", "motion_top", "moving"),
    colours: ("saturation", "chroma", "clipped"),
    light: ("contrast", "sharpness"),
    flickers: ("flicker", "jitter"),
}
"""Functions of uint8 frames [T, H, W, 3] and frames a second, with the names that each computes at once."""


def measures(
    videos: np.ndarray, fps: float, names: Collection[MeasureName] = ALL, flow: Flow = farneback
) -> dict[str, Tensor]:
    """Each of ``names``, fp64 [N], of uint8 frames [N, T, H, W, 3]; ``flow`` is that of the motions."""
    cv2.setNumThreads(torch.get_num_threads())  # OpenCV would take every core of the machine
    functions: list[Callable[[np.ndarray, float], dict[str, float]]] = [
        partial(motions, flow=flow) if function is motions else function
        for function, group in GROUPS.items()
        if not set(group).isdisjoint(names)
    ]
    rows = [{k: v for function in functions for k, v in function(video, fps).items()} for video in videos]
    return {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in ALL if name in names}
