"""Distribution matching for a phase that ends above the data (Phased DMD, arXiv 2510.27684).

A phase's student makes x_s, at the level s = ``end`` in [0, 1) of the phase's end, and no x_0. The scores compare it
above that level, at x_t = alpha x_s + beta n with fresh n ~ N(0, I), alpha = (1 - t) / (1 - s) and beta^2 = t^2 -
alpha^2 s^2: :func:`ray_distill.diffusion.flow.renoise`. At s = 0 this is the usual re-noising.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ray_distill.diffusion.flow import expand
from ray_distill.diffusion.timesteps import score_sigma, shift_sigma


def bridge(sigma: Tensor, end: float) -> tuple[Tensor, Tensor]:
    """(alpha, beta), shaped like ``sigma``, of x_t = alpha x_s + beta n."""
    alpha = (1 - sigma) / (1 - end)
    return alpha, (sigma**2 - (alpha * end) ** 2).sqrt()


def coefficients(sigma: Tensor, end: float) -> tuple[float, Tensor]:
    """(c_x, c_n) of the target c_x x_s + c_n n: c_x = -1 / (1 - s), c_n = (t + (1 - t) s^2 / (1 - s)^2) / beta.

    ``sigma`` must be above ``end``, where beta is 0."""
    _, beta = bridge(sigma, end)
    return -1 / (1 - end), (sigma + (1 - sigma) * (end / (1 - end)) ** 2) / beta


def phase_target(x_s: Tensor, n: Tensor, sigma: Tensor, end: float) -> Tensor:
    """v* [B, C, T, H, W], the fake score's target at x_t. By Tweedie E[v* | x_t] is the velocity of the marginal at
    ``sigma`` [B], whatever the law of ``x_s``; n - x_s, its value at s = 0, would be wrong."""
    c_x, c_n = coefficients(expand(sigma, x_s), end)
    return (c_x * x_s + c_n * n).to(x_s.dtype)


def phase_floor(sigma: Tensor, end: float, variance: Tensor | float) -> Tensor:
    """[B]: the least velocity loss for a Gaussian x_s of ``variance`` V:
    (c_x beta - c_n alpha)^2 V / (alpha^2 V + beta^2)."""
    alpha, beta = bridge(sigma, end)
    c_x, c_n = coefficients(sigma, end)
    return (c_x * beta - c_n * alpha) ** 2 * variance / (alpha**2 * variance + beta**2)


def unit_floor_weight(sigma: Tensor, end: float) -> Tensor:
    """[B]: 1 / :func:`phase_floor` for data of spread 1, which makes the least loss equal at every level. Without this
    weight the levels next to the phase's end, with a floor in the hundreds, dominate."""
    return 1 / phase_floor(sigma, end, (1 - end) ** 2 + end**2)


def raw_index(sigma: float, shift: float) -> int:
    """Smallest raw index whose level S_shift(i / 1000) is at or above ``sigma``."""
    return math.ceil(1000 * shift_sigma(sigma, 1 / shift) - 1e-6)


def phase_sigma(u: Tensor, shift: float, window: tuple[int, int]) -> Tensor:
    """Level [B] at which the scores compare a phase: uniform ``u`` [B] in [0, 1) -> raw index in ``window`` ->
    shift."""
    return score_sigma(u, shift, 0.0, 1.0, window)


def variance_of(x: Tensor) -> Tensor:
    """Variance over all elements of ``x``, in fp32 or better."""
    return x.to(torch.promote_types(x.dtype, torch.float32)).var(correction=0)
