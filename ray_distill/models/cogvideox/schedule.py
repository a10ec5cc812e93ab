"""Express the noise levels of CogVideoX's variance-preserving training as levels sigma of the straight line.

Training noises clips to z = a x_0 + b eps with a^2 + b^2 = 1. With sigma = b / (a + b), z / (a + b) is (1 - sigma) x_0
+ sigma eps: each of the 1000 training timesteps has one sigma, and the last has sigma = 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

PUBLISHED_CONFIG: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "clip_sample": False,
    "set_alpha_to_one": True,
    "timestep_spacing": "trailing",
}
"""The configuration of diffusers' CogVideoXDDIMScheduler in the folders of 2B and 5B, without ``snr_shift_scale``."""


def snr_shift_scale(transformer: Mapping[str, Any]) -> float:
    """The scale by which this transformer's training divided the signal-to-noise ratio: 1 for 5B, which alone has
    rotary positions, and 3 for 2B. ``family.check`` compares it with the folder's scheduler."""
    return 1.0 if transformer.get("use_rotary_positional_embeddings") else 3.0


@cache
def levels(scale: float) -> tuple[float, ...]:
    """sigma of each training timestep, from timestep 0. It equals the table of diffusers' scheduler; numpy computes it,
    since ``plan`` uses tensors without data.

    The last level is without signal (arXiv 2305.08891, algorithm 1); ``scale`` divides the signal-to-noise ratio.
    """
    start, end, count = (PUBLISHED_CONFIG[key] for key in ("beta_start", "beta_end", "num_train_timesteps"))
    alpha = np.cumprod(1 - np.linspace(start**0.5, end**0.5, count) ** 2)
    a = np.sqrt(alpha / (scale + (1 - scale) * alpha))
    a = (a - a[-1]) * a[0] / (a[0] - a[-1])
    b = np.sqrt(1 - a**2)
    return tuple((b / (a + b)).tolist())


def training_timestep(sigma: Tensor, scale: float) -> Tensor:
    """The fp32 timestep [B] at which training noised to ``sigma`` [B], interpolated between training timesteps. Levels
    below the first one, for which the network was not trained, have timestep 0."""
    table = torch.tensor(levels(scale), dtype=torch.float64).to(sigma.device, non_blocking=True)
    upper = torch.searchsorted(table, sigma.double()).clamp(1, len(table) - 1)
    below, above = table[upper - 1], table[upper]
    return (upper - 1 + ((sigma - below) / (above - below)).clamp(0, 1)).float()
