"""Image conditions in a call of Wan's network: further channels, CLIP's states, or the first frame itself.

``held`` [B, C, T, h, w]: latents of a clip that is the image and then mid-grey. They enter behind the noisy channels
    and a mask of 4 channels, which follows from the shape (Wan 2.1 I2V, Wan 2.2 I2V A14B)
``image`` [B, tokens, D]: CLIP's hidden states of the image, for a cross attention of their own (Wan 2.1 I2V)
``first`` [B, C, h, w]: latents of the image, in the place of the first latent frame and at level 0 (Wan 2.2 5B)
"""

from __future__ import annotations

import torch
from torch import Tensor

from ray_distill.models.first_frame import towards_first, with_first
from ray_distill.types import Cond

TEMPORAL = 4
"""Frames in a latent frame; the first latent frame is a single frame."""


def latent_mask(by_frame: Tensor) -> Tensor:
    """The mask [4, t] from ``by_frame`` [4 (t - 1) + 1], which is 1 or 0 for each frame of a clip: a latent frame has
    one channel for each of its frames, and the first frame fills all four."""
    return torch.cat([by_frame[:1].expand(TEMPORAL), by_frame[1:]]).view(-1, TEMPORAL).T


def enter(x_t: Tensor, sigma: Tensor, cond: Cond, start: int) -> tuple[Tensor, Tensor]:
    """(latents, levels) for the network, from ``x_t`` [B, C, T, h, w] and ``sigma`` [B] or [B, T].

    ``start`` is the place of the first of these T latent frames in its clip. No argument is changed in place.
    """
    if "held" in cond:
        clip = cond["held"][:, :, start : start + x_t.shape[2]]
        by_frame = x_t.new_zeros(TEMPORAL * (cond["held"].shape[2] - 1) + 1)
        by_frame[0] = 1
        mask = latent_mask(by_frame)[:, start : start + x_t.shape[2], None, None]
        return torch.cat([x_t, mask.expand(len(x_t), -1, -1, *x_t.shape[3:]), clip.to(x_t)], dim=1), sigma
    if "first" in cond and start == 0:
        return with_first(x_t, sigma, cond["first"])
    return x_t, sigma


def leave(velocity: Tensor, x_t: Tensor, sigma: Tensor, cond: Cond, start: int) -> Tensor:
    """``velocity``; in a clip that begins with an image its first latent frame leads there."""
    if "first" not in cond or start:
        return velocity
    return towards_first(velocity, x_t, sigma, cond["first"])
