"""Fidelity of a video to the picture from which it was to begin."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor


def first_frame_error(videos: np.ndarray, pictures: Sequence[np.ndarray]) -> Tensor:
    """Mean |f_0 - picture| over pixels and colours, of white, fp64 [N], of the first frames of uint8 ``videos`` [N, T,
    H, W, 3] and uint8 ``pictures`` [H, W, 3]."""
    sums = [cv2.norm(video[0], picture, cv2.NORM_L1) for video, picture in zip(videos, pictures, strict=True)]
    return torch.tensor(sums, dtype=torch.float64) / (255 * videos[0, 0].size)
