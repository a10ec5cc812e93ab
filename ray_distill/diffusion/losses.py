"""Losses and the normalised DMD gradient, as pure functions; the dimensions of every mean are named."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import softplus


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean over all elements of (a - b)^2, in fp32 or better."""
    return _square(a, b).mean()


def sample_mse(a: Tensor, b: Tensor) -> Tensor:
    """[B]: mean over all dimensions but the batch's of (a - b)^2, in fp32 or better."""
    return _square(a, b).flatten(1).mean(1)


def frame_mse(a: Tensor, b: Tensor) -> Tensor:
    """[B, T]: mean over C, H and W of (a - b)^2 of latents [B, C, T, H, W], in fp32 or better."""
    return _square(a, b).mean(dim=(1, 3, 4))


def pseudo_huber(a: Tensor, b: Tensor, c: float) -> Tensor:
    """[B]: mean over all dimensions but the batch's of sqrt((a - b)^2 + c^2) - c, in fp32 or better (arXiv 2310.14189).

    Computed as d^2 / (sqrt(d^2 + c^2) + c), since the difference would keep few digits where d is below c.
    """
    square = _square(a, b)
    return (square / ((square + c**2).sqrt() + c)).flatten(1).mean(1)


def frame_differences(x: Tensor, lag: int) -> Tensor:
    """x[:, :, lag:] - x[:, :, :-lag] of latents [B, C, T, H, W]."""
    return x[:, :, lag:] - x[:, :, :-lag]


def _square(a: Tensor, b: Tensor) -> Tensor:
    dtype = torch.promote_types(a.dtype, torch.float32)
    return (a.to(dtype) - b.to(dtype)).square()


def score_weight(sigma: Tensor, target: str) -> Tensor:
    """[B]: the factor that turns the loss of a velocity into that of another target of the same prediction.

    x_0 - x = -sigma (v - (eps - x)) and eps_hat - eps = (1 - sigma)(v - (eps - x)) at fixed x_t.
    """
    return {"velocity": torch.ones_like(sigma), "x_0": sigma**2, "eps": (1 - sigma) ** 2}[target]


def gaussian_floor(x: Tensor, sigma: Tensor) -> Tensor:
    """[B]: the least velocity loss on N(m, s^2) elements, s^2 / ((1 - sigma)^2 s^2 + sigma^2), with s^2 the variance
    over all elements of ``x``. A network that models more of its data than their spread has a smaller loss."""
    variance = x.to(torch.promote_types(x.dtype, torch.float32)).var(correction=0)
    return variance / ((1 - sigma) ** 2 * variance + sigma**2)


def dmd_gradient(x: Tensor, mu_fake: Tensor, mu_real: Tensor, min_norm: float = 1e-5) -> tuple[Tensor, Tensor]:
    """The normalised distribution-matching gradient (DMD2, arXiv 2405.14867, eq. 7 of DMD, arXiv 2311.18828).

    g = (mu_fake - mu_real) / n with n_b = mean over C, T, H, W of abs(x - mu_real), clamped at ``min_norm`` (without it
    n = 0 gives an infinite gradient). Returns (g [B, C, T, H, W] in fp32 or better, n [B]).
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    x, mu_fake, mu_real = (tensor.to(dtype) for tensor in (x, mu_fake, mu_real))
    norm = (x - mu_real).abs().flatten(1).mean(1).clamp_min(min_norm)
    return (mu_fake - mu_real) / norm.reshape(-1, *[1] * (x.ndim - 1)), norm


def without_residual(gradient: Tensor, residual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """PDMD's projection (arXiv 2609.35768): d' = d - (<d, r> / (<r, r> + 1e-8)) r, with r = x - mu_fake.

    ``gradient`` is d, or d times one number per sample. Inner products run over all dimensions but the batch's, in fp32
    or better. A perfect fake score under fresh noise has E[r | x_s] = 0, so the projection loses nothing. An error of
    the fake score shifts d and -r alike, so the projection removes much of it. Returns (d' [B, C, T, H, W], |d'| / |d|
    [B], <d, r> / (|d| |r|) [B]).
    """
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    d, r = gradient.to(dtype).flatten(1), residual.to(dtype).flatten(1)
    along = (d * r).sum(1)
    d_prime = d - (along / (r.square().sum(1) + 1e-8))[:, None] * r
    size = d.norm(dim=1).clamp_min(torch.finfo(dtype).tiny)
    return d_prime.view_as(gradient), d_prime.norm(dim=1) / size, along / (size * r.norm(dim=1)).clamp_min(1e-30)


def surrogate(x: Tensor, gradient: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scalar with the value 0.5 mean g^2 and the gradient g / N of 0.5 mean over all N elements of (x - sg[x - g])^2.

    Under a boolean ``mask``, which broadcasts to ``x``, mean and N cover its true elements only. The
    code never computes g as a difference of near-equal numbers: in fp32 x - (x - g) keeps few digits of g.
    """
    g = gradient.detach()
    value = 0.5 * g.square() + (x - x.detach()) * g
    if mask is None:
        return value.mean()
    m = mask.expand_as(value)
    return torch.where(m, value, 0).sum() / m.sum()


def adversarial_loss(logits: Tensor, real: bool, form: str) -> Tensor:
    """Mean over all elements, in fp32 or better, of the cost of labelling ``logits`` D as real, or as fake.

    softplus (Goodfellow et al., arXiv 1406.2661, non-saturating): softplus(-D) and softplus(D).
    hinge (Lim & Ye, arXiv 1705.02894): relu(1 - D) and relu(1 + D).
    A discriminator descends the costs of data as real and of samples as fake; a student descends that of its samples as
    real.
    """
    d = logits.to(torch.promote_types(logits.dtype, torch.float32))
    wrong = -d if real else d
    cost = {"softplus": softplus(wrong), "hinge": (1 + wrong).relu()}[form]
    return cost.mean()


RATIOS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "rkl": torch.ones_like,
    "kl": lambda r: r,
    "js": lambda r: r / (1 + r),
    "sf": lambda r: 1 / (1 + r),
    "neyman": lambda r: 1 / r,
    "sh": torch.sqrt,
    "jf": lambda r: 1 + r,
}
"""h(r) of f-distill, with r = p_real / p_student: f''(r) r^2 of the divergence in the loss."""


def divergence_weight(logits: Tensor, divergence: str) -> Tensor:
    """[B]: h(r) / h(1), f-distill's weight of a sample's gradient (arXiv 2502.15681).

    r = exp(D) of a sample's mean logit D in fp32 or better, high for real, with D in [-10, 10] and r in [0.1, 20]. Its
    authors divide by a running mean of h; h(1) is the value of h where real and fake look alike.
    """
    d = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(1).mean(1)
    r = d.clamp(-10, 10).exp().clamp(0.1, 20)
    h = RATIOS[divergence]
    return h(r) / h(torch.ones_like(r))


def finite_samples(*tensors: Tensor) -> Tensor:
    """[B] bool: samples in which every element of every tensor [B, ...] is finite."""
    return torch.stack([tensor.flatten(1).isfinite().all(1) for tensor in tensors]).all(0)
