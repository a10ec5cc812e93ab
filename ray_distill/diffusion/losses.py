"""Losses as pure functions of tensors; the dimensions of every mean are named."""

from __future__ import annotations

import torch
from torch import Tensor


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean over all elements of (a - b)^2, in fp32 or better."""
    dtype = torch.promote_types(a.dtype, torch.float32)
    return (a.to(dtype) - b.to(dtype)).square().mean()


def dmd_gradient(x: Tensor, mu_fake: Tensor, mu_real: Tensor, min_norm: float = 1e-5) -> tuple[Tensor, Tensor]:
    """The normalised distribution-matching gradient (DMD2, arXiv 2405.14867, eq. 7 of DMD, arXiv 2311.18828).

    g = (mu_fake - mu_real) / n with n_b = mean over C, T, H, W of abs(x - mu_real), clamped at ``min_norm`` (without it
    n = 0 gives an infinite gradient). Returns (g [B, C, T, H, W] in fp32 or better, n [B]).
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    x, mu_fake, mu_real = (tensor.to(dtype) for tensor in (x, mu_fake, mu_real))
    norm = (x - mu_real).abs().flatten(1).mean(1).clamp_min(min_norm)
    return (mu_fake - mu_real) / norm.reshape(-1, *[1] * (x.ndim - 1)), norm


def surrogate(x: Tensor, gradient: Tensor) -> Tensor:
    """A scalar of value and gradient of 0.5 mean over all N elements of (x - sg[x - g])^2: 0.5 mean g^2, and g / N.

    Written so that g is never the difference of two near-equal numbers: in fp32 x - (x - g) keeps few digits of g.
    """
    g = gradient.detach()
    return 0.5 * g.square().mean() + ((x - x.detach()) * g).mean()


def finite_samples(*tensors: Tensor) -> Tensor:
    """[B] bool: samples in which every element of every tensor [B, ...] is finite."""
    return torch.stack([tensor.flatten(1).isfinite().all(1) for tensor in tensors]).all(0)
