"""Image to video by the first latent frame itself: a picture's latents take its place, at level 0, in a call of a
network.

``first`` [B, C, h, w] are the picture's latents. Samplers and methods need no special case: each x_0-prediction and
each rollout has the picture there.
"""

from __future__ import annotations

import torch
from torch import Tensor


def with_first(x_t: Tensor, sigma: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """(latents, levels [B, T]) for the network, from ``x_t`` [B, C, T, h, w] and ``sigma`` [B] or [B, T]. No argument
    is changed in place."""
    levels = sigma if sigma.ndim == 2 else sigma[:, None].expand(-1, x_t.shape[2])
    latents = torch.cat([first[:, :, None].to(x_t), x_t[:, :, 1:]], dim=2)
    return latents, torch.cat([torch.zeros_like(levels[:, :1]), levels[:, 1:]], 1)


def towards_first(velocity: Tensor, x_t: Tensor, sigma: Tensor, first: Tensor) -> Tensor:
    """``velocity`` in which the first latent frame has the velocity from ``x_t`` to ``first`` (0 where sigma is 0)."""
    level = (sigma[:, 0] if sigma.ndim == 2 else sigma).view(-1, 1, 1, 1, 1)
    way = (x_t[:, :, :1] - first[:, :, None].to(x_t)) / torch.where(level > 0, level, 1)
    return torch.cat([torch.where(level > 0, way, 0).to(velocity), velocity[:, :, 1:]], dim=2)
