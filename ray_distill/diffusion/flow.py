"""Rectified flow: x_t = (1 - sigma) x_0 + sigma eps, velocity = eps - x_0, sigma in [0, 1].

All conversions run in fp32 or better and return the dtype of their first argument: they subtract near-equal terms,
where bf16 would lose most of its bits.
"""

from __future__ import annotations

import torch
from torch import Tensor


def expand(sigma: Tensor, like: Tensor) -> Tensor:
    """``sigma`` [B] as [B, 1, 1, ...], or [B, T] as [B, 1, T, 1, 1], in at least fp32, to multiply ``like``."""
    dtype = torch.promote_types(torch.promote_types(like.dtype, sigma.dtype), torch.float32)
    shape = (len(sigma), 1, -1, 1, 1) if sigma.ndim == 2 else (-1, *[1] * (like.ndim - 1))
    return sigma.to(like.device, dtype).reshape(shape)


def add_noise(x_0: Tensor, eps: Tensor, sigma: Tensor) -> Tensor:
    """x_t = (1 - sigma) x_0 + sigma eps."""
    s = expand(sigma, x_0)
    return ((1 - s) * x_0 + s * eps).to(x_0.dtype)


def renoise(x_s: Tensor, eps: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """x_t = a x_s + b eps from the level s = ``sigma`` < 1 up to t = ``sigma_next``, with a = (1 - t) / (1 - s) and b^2
    = t^2 - a^2 s^2: the exact marginal at t, for an ``eps`` independent of x_s (arXiv 2510.27684)."""
    s, t = expand(sigma, x_s), expand(sigma_next, x_s)
    a = (1 - t) / (1 - s)
    return (a * x_s + (t**2 - (a * s) ** 2).clamp_min(0).sqrt() * eps).to(x_s.dtype)


def velocity(x_0: Tensor, eps: Tensor) -> Tensor:
    """v = eps - x_0, which does not depend on sigma."""
    return eps - x_0


def x_0_from_velocity(x_t: Tensor, v: Tensor, sigma: Tensor) -> Tensor:
    """x_0 = x_t - sigma v."""
    return (x_t - expand(sigma, x_t) * v).to(x_t.dtype)


def eps_from_velocity(x_t: Tensor, v: Tensor, sigma: Tensor) -> Tensor:
    """eps = x_t + (1 - sigma) v."""
    return (x_t + (1 - expand(sigma, x_t)) * v).to(x_t.dtype)


def euler_step(x_t: Tensor, v: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """x_r = x_t + (r - sigma) v: one step of the probability-flow ODE."""
    return (x_t + (expand(sigma_next, x_t) - expand(sigma, x_t)) * v).to(x_t.dtype)
