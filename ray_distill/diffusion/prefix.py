"""Prefix of a clip: its first latent frames, if these frames themselves are the condition.

The denoiser replaces its input there by these frames at level 0, and returns the velocity that leads to them. So every
rollout and every x_0-prediction contains them, and no loss may count them: a mean over all T frames would be (T - c) /
T of the mean over the generated ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


def generated(x: Tensor, prefix: int) -> Tensor:
    """Latent frames, or packed tokens, of ``x`` [B, C, T, H, W] after the first ``prefix``."""
    return x[:, :, prefix:] if prefix else x


def generated_places(modalities: Mapping[str, slice], prefix: int) -> Mapping[str, slice]:
    """The places of each modality along T in :func:`generated` latents, from its places in whole ones. The prefix lies
    in the first modality."""
    if not prefix:
        return modalities
    return {
        name: slice(max(where.start - prefix, 0), where.stop and where.stop - prefix)
        for name, where in modalities.items()
    }


def generated_tokens(hidden: Tensor, frames: int, prefix: int) -> Tensor:
    """Tokens after the first ``prefix`` frames of ``hidden`` [B, tokens, D], whose tokens are ``frames`` latent frames
    in order."""
    return hidden[:, prefix * (hidden.shape[1] // frames) :] if prefix else hidden


def generated_features(
    features: Sequence[Tensor], frames: int, modalities: Mapping[str, slice], prefix: int
) -> tuple[Tensor, ...]:
    """:func:`generated_tokens` of each of ``features``, which are one a block, or with ``modalities`` one a block and
    modality. The prefix lies in the first modality."""
    kinds = max(len(modalities), 1)
    first = next(iter(modalities.values())).stop if modalities else frames
    return tuple(x if i % kinds else generated_tokens(x, first, prefix) for i, x in enumerate(features))
