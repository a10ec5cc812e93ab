"""Classifier-free guidance in its standard form, u + s (c - u); s = 1 is off (Ho & Salimans, arXiv 2207.12598)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ray_distill.diffusion.flow import expand, x_0_from_velocity
from ray_distill.diffusion.layout import sound_start
from ray_distill.types import Cond, Denoiser

Form = Literal["std", "extra"]


def standard_scale(scale: float, form: str) -> float:
    """The standard scale: "std" is u + s (c - u) as it stands, "extra" is c + s (c - u) = std with s + 1."""
    if form not in ("std", "extra"):
        raise ValueError(f"guidance form {form!r}: use 'std' for u + s (c - u) or 'extra' for c + s (c - u)")
    return scale + 1 if form == "extra" else scale


def by_modality(scale: float | Tensor, audio: float | None, x_t: Tensor, cond: Cond) -> float | Tensor:
    """``scale``, one number or [B]; in clips with sound that has the scale ``audio`` of its own a scale for each place
    of ``x_t`` along T, [1 or B, 1, T, 1, 1]."""
    start = sound_start(cond)
    if start is None or audio is None or (not isinstance(scale, Tensor) and scale == audio):
        return scale
    wide = expand(scale, x_t) if isinstance(scale, Tensor) else x_t.new_full((1, 1, 1, 1, 1), scale)
    scales = wide.expand(-1, 1, x_t.shape[2], 1, 1).clone()
    scales[:, :, start:] = audio
    return scales


def both_velocities(
    denoiser: Denoiser, x_t: Tensor, sigma: Tensor, cond: Cond, uncond: Cond | None
) -> tuple[Tensor, Tensor]:
    """Velocities (v_c, v_u), each [B, C, T, H, W], of both branches, evaluated as one batch of 2B."""
    both = both_prompts(cond, uncond)
    v_c, v_u = denoiser(torch.cat([x_t, x_t]), torch.cat([sigma, sigma]), both).velocity.chunk(2)
    return v_c, v_u


def both_prompts(cond: Cond, uncond: Cond | None) -> Cond:
    """``cond`` and ``uncond`` as one batch of 2B."""
    if not uncond or cond.keys() - uncond.keys():
        raise ValueError(
            f"guidance needs unconditional (null or negative prompt) embeddings {sorted(cond)}, and there are "
            f"{sorted(uncond or ())}: give them, or turn guidance off with a standard scale of 1"
        )
    return {name: torch.cat([c, uncond[name]]) for name, c in cond.items()}


def guided_velocity(
    denoiser: Denoiser, x_t: Tensor, sigma: Tensor, cond: Cond, uncond: Cond | None, scale: float | Tensor
) -> Tensor:
    """The guided velocity [B, C, T, H, W] at one ``scale``, at one per sample, [B], or as :func:`by_modality` gives
    them.

    Velocity, x_0 and eps guidance are the same: all three are affine in each other at fixed x_t.
    """
    if not isinstance(scale, Tensor) and scale == 1.0:
        return denoiser(x_t, sigma, cond).velocity
    v_c, v_u = both_velocities(denoiser, x_t, sigma, cond, uncond)
    if isinstance(scale, Tensor):
        return torch.lerp(v_u, v_c, (scale if scale.ndim == 5 else expand(scale, v_u)).to(v_u.dtype))
    return torch.lerp(v_u, v_c, scale)


def guided_x_0(
    denoiser: Denoiser, x_t: Tensor, sigma: Tensor, cond: Cond, uncond: Cond | None, scale: float | Tensor
) -> tuple[Tensor, Tensor | None]:
    """(mu, gap): the guided x_0-prediction at one ``scale``, or as :func:`by_modality` gives them, and, if guidance is
    on, mean abs(mu_c - mu_u) over C, T, H, W, [B]."""
    if not isinstance(scale, Tensor) and scale == 1.0:
        return x_0_from_velocity(x_t, denoiser(x_t, sigma, cond).velocity, sigma), None
    v_c, v_u = both_velocities(denoiser, x_t, sigma, cond, uncond)
    gap = sigma * (v_c - v_u).abs().flatten(1).mean(1)
    return x_0_from_velocity(x_t, torch.lerp(v_u, v_c, scale), sigma), gap
