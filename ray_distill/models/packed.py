"""Packed latents: several modalities of a clip in one tensor, and the place of each modality.

A clip without sound has latents of the shape (C, t, h, w) in a tensor [B, C, t, h, w]. A clip with sound has the shape
(C, t, h, w, L) in a tensor [B, C, t h w + L, 1, 1]: first the picture's tokens in the order t, h, w, then L tokens of
sound. Cond tells networks this shape by a tensor without elements beside the fields. This file is light to import,
since a cache's stores need shapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ray_distill.diffusion.layout import LAYOUT
from ray_distill.models.spec import Latent

if TYPE_CHECKING:
    from torch import Tensor

    from ray_distill.types import Cond


def tensor_shape(latent: Latent) -> tuple[int, int, int, int]:
    """(C, T, H, W) of the tensor for latents of the shape (C, t, h, w) or (C, t, h, w, L)."""
    channels, frames, height, width, *sound = latent
    return (channels, frames * height * width + sound[0], 1, 1) if sound else (channels, frames, height, width)


def modalities(latent: Latent) -> Mapping[str, slice]:
    """The slice of each modality along T of the packed tensor; empty for a clip without sound."""
    if len(latent) == 4:
        return {}
    pictured = math.prod(latent[1:4])
    return {"video": slice(0, pictured), "audio": slice(pictured, None)}


def prefix_length(frames: int, latent: Latent) -> int:
    """Places along T of a clip's first ``frames`` latent frames: in packed latents h w tokens each."""
    return frames if len(latent) == 4 else frames * latent[2] * latent[3]


def picture(x: Tensor, latent: Latent) -> Tensor:
    """The picture's latents [B, C, t, h, w] in ``x``; ``x`` itself for a clip without sound."""
    where = modalities(latent)
    return x[:, :, where["video"]].flatten(2).unflatten(2, latent[1:4]) if where else x


def sound(x: Tensor, latent: Latent) -> Tensor:
    """The sound's tokens [B, C, L] in packed latents ``x``."""
    return x[:, :, modalities(latent)["audio"], 0, 0]


def pack(picture: Tensor, sound: Tensor) -> Tensor:
    """Packed latents [B, C, t h w + L, 1, 1] of a picture's [B, C, t, h, w] and of sound's tokens [B, C, L]."""
    import torch  # this file is light to import

    return torch.cat([picture.flatten(2), sound], dim=2)[..., None, None]


def with_layout(cond: dict[str, Tensor], latent: Latent) -> dict[str, Tensor]:
    """``cond``; for packed latents with the empty tensor that names their shape."""
    if len(latent) == 4:
        return cond
    one = next(iter(cond.values()))
    return cond | {LAYOUT: one.new_empty(len(one), 0, *latent[1:])}


def layout(cond: Cond, channels: int) -> Latent:
    """The shape (C, t, h, w, L) that ``cond`` names."""
    return (channels, *cond[LAYOUT].shape[2:])
