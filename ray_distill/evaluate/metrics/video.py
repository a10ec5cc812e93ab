"""Motion and colour of videos, measured on their pixels alone.

Each function takes uint8 frames [N, T, H, W, 3] and returns one number for each video, fp64 [N].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
WINDOW = 9  # rows and columns that move together
SHORT_SIDE = 128  # pixels to which frames are shrunk: displacements longer than a window are invisible
SMOOTHED = 4  # passes: the flow's linear model then holds for longer displacements
RIDGE = 1e-6  # of the squared gradient of luma in [0, 1]: below one 255th a pixel
DARK = 26  # of 255: the saturation of darker pixels is that of their noise


def motion(videos: np.ndarray, fps: float) -> Tensor:
    """Mean displacement, in short sides of the picture a second: resolution and frame rate cancel.

    Optical flow of each pair of frames by least squares over windows of 9x9 pixels (Lucas and Kanade, 1981), averaged
    over the picture with the smaller eigenvalue of each window's gradients as its weight: flat windows and plain edges,
    whose motion no local method knows, count little. A video of one frame, or without any structure, has 0. With a
    short side of 128 pixels or less, 1 pixel a frame reads 2 % too long, 2 pixels 8 %, and above 3 nothing is certain.
    """
    return torch.tensor([_displacement(video) * fps for video in videos], dtype=torch.float64)


def _displacement(video: np.ndarray) -> float:
    """Displacement of each pair of frames, in short sides of the picture."""
    luma = (torch.from_numpy(video).double() / 255 @ torch.tensor(LUMA, dtype=torch.float64))[:, None]
    if (factor := min(luma.shape[2:]) // SHORT_SIDE) > 1:
        luma = avg_pool2d(luma, factor)
    if len(luma) < 2:
        return 0.0
    for _ in range(SMOOTHED):
        luma = _binomial(luma)
    middle, change = (luma[1:] + luma[:-1]) / 2, (luma[1:] - luma[:-1])[..., 2:-2, 2:-2]
    along_x = _slope(middle[..., 2:-2, :])
    along_y = _slope(middle[..., 2:-2].mT).mT
    yy, xx, xy = _window(along_y**2) + RIDGE, _window(along_x**2) + RIDGE, _window(along_y * along_x)
    y, x = -_window(along_y * change), -_window(along_x * change)
    determinant = yy * xx - xy**2
    length = ((xx * y - xy * x) ** 2 + (yy * x - xy * y) ** 2).sqrt() / determinant
    weight = (yy + xx) / 2 - (((yy - xx) / 2) ** 2 + xy**2).sqrt() - RIDGE  # the smaller eigenvalue
    weight = weight.clamp_min(0)
    total = weight.sum().item()
    return (weight * length).sum().item() / total / min(luma.shape[2:]) if total > RIDGE else 0.0


def _binomial(luma: Tensor) -> Tensor:
    """[.., H, W] smoothed by (1, 2, 1) / 4 along both axes."""
    padded = torch.nn.functional.pad(luma, (1, 1, 1, 1), mode="replicate")
    rows = (padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]) / 4
    return (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 4


def _slope(values: Tensor) -> Tensor:
    """The derivative along the last axis, right to the fourth power of a pixel: [.., W] -> [.., W - 4]."""
    return (values[..., :-4] - 8 * values[..., 1:-3] + 8 * values[..., 3:-1] - values[..., 4:]) / 12


def _window(values: Tensor) -> Tensor:
    return avg_pool2d(values, WINDOW, stride=1, padding=WINDOW // 2)


def saturation(videos: np.ndarray) -> Tensor:
    """Mean of HSV's S = (max - min) / max over pixels whose largest colour is at least 26 of 255, in [0, 1]; 0 where
    there is none."""
    most, least = _extremes(videos)
    bright = most >= DARK
    share = np.where(bright, (most - least) / np.maximum(most, 1), 0.0)
    return torch.from_numpy(share.sum((1, 2, 3)) / np.maximum(bright.sum((1, 2, 3)), 1))


def chroma(videos: np.ndarray) -> Tensor:
    """Mean of max - min over all pixels, in [0, 1]: dark pixels count as little as they are seen."""
    most, least = _extremes(videos)
    return torch.from_numpy((most - least).mean((1, 2, 3)) / 255)


def _extremes(videos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return videos.max(-1).astype(np.float64), videos.min(-1).astype(np.float64)


MEASURES: Mapping[str, Callable[[np.ndarray, float], Tensor]] = {
    "motion": motion,
    "saturation": lambda videos, fps: saturation(videos),
    "chroma": lambda videos, fps: chroma(videos),
}
"""Measures without a network, by name: functions of uint8 frames [N, T, H, W, 3] and their frames a second."""


def measures(videos: np.ndarray, fps: float) -> dict[str, Tensor]:
    """Each of MEASURES, fp64 [N]."""
    return {name: measure(videos, fps) for name, measure in MEASURES.items()}
