"""Prefix of a clip: its first latent frames, where the condition is these frames themselves.

The denoiser replaces its input there by these frames, at level 0, and answers with the velocity that leads to them. So
every rollout and every x_0-prediction has them, and no loss may count them: a mean over all frames would be (T - c) / T
of the mean over the generated ones.
"""

from __future__ import annotations

from torch import Tensor


def generated(x: Tensor, prefix: int) -> Tensor:
    """The latent frames of ``x`` [B, C, T, H, W] behind the first ``prefix``."""
    return x[:, :, prefix:] if prefix else x


def generated_tokens(hidden: Tensor, frames: int, prefix: int) -> Tensor:
    """The tokens of ``hidden`` [B, tokens, D], which are ``frames`` latent frames in their order, behind the first
    ``prefix`` frames."""
    return hidden[:, prefix * (hidden.shape[1] // frames) :] if prefix else hidden
