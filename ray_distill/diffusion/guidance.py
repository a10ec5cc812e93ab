"""Classifier-free guidance in its standard form, u + s (c - u); s = 1 is off (Ho & Salimans, arXiv 2207.12598)."""

from __future__ import annotations

import torch
from torch import Tensor

from ray_distill.types import Cond, Denoiser


def standard_scale(scale: float, form: str) -> float:
    """The standard scale: "std" is u + s (c - u) as it stands, "extra" is c + s (c - u) = std with s + 1."""
    if form not in ("std", "extra"):
        raise ValueError(f"guidance form {form!r}: use 'std' for u + s (c - u) or 'extra' for c + s (c - u)")
    return scale + 1 if form == "extra" else scale


def guided_velocity(
    denoiser: Denoiser, x_t: Tensor, sigma: Tensor, cond: Cond, uncond: Cond | None, scale: float
) -> Tensor:
    """The guided velocity [B, C, T, H, W]; both branches go through the network as one batch of 2B.

    Velocity, x_0 and eps guidance are the same: all three are affine in each other at fixed x_t.
    """
    if scale == 1.0:
        return denoiser(x_t, sigma, cond).velocity
    if uncond is None:
        raise ValueError(f"guidance scale {scale} needs unconditional (null or negative prompt) embeddings")
    both = {name: torch.cat([c, uncond[name]]) for name, c in cond.items()}
    v_c, v_u = denoiser(torch.cat([x_t, x_t]), torch.cat([sigma, sigma]), both).velocity.chunk(2)
    return torch.lerp(v_u, v_c, scale)
