"""Packed latents: several modalities of a clip in one tensor, and where each of them stands.

A row's shape is (C, t, h, w), of a tensor [B, C, t, h, w]. Where a clip has sound, too, its shape is (C, t, h, w, L):
the tensor is [B, C, t h w + L, 1, 1], the picture's tokens in the order of t, h and w, then L tokens of sound.
Networks learn such a shape from Cond, which has a tensor without elements beside the fields.
Light to import: the stores of a cache ask for shapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ray_distill.models.spec import Latent

if TYPE_CHECKING:
    from torch import Tensor

    from ray_distill.types import Cond

LAYOUT = "layout"
"""The name in Cond of an empty tensor [B, 0, t, h, w, L]: its shape is the message. It costs no memory and no copy, and
both branches of guidance join as all tensors of Cond do."""


def tensor_shape(latent: Latent) -> tuple[int, int, int, int]:
    """(C, T, H, W) of the tensor that holds latents of the shape (C, t, h, w) or (C, t, h, w, L)."""
    channels, frames, height, width, *sound = latent
    return (channels, frames * height * width + sound[0], 1, 1) if sound else (channels, frames, height, width)


def modalities(latent: Latent) -> Mapping[str, slice]:
    """The places of each modality along T of the packed tensor; none where a clip is a picture alone."""
    if len(latent) == 4:
        return {}
    pictured = math.prod(latent[1:4])
    return {"video": slice(0, pictured), "audio": slice(pictured, None)}


def picture(x: Tensor, latent: Latent) -> Tensor:
    """The picture's latents [B, C, t, h, w] of ``x``: ``x`` itself where a clip has no sound."""
    where = modalities(latent)
    return x[:, :, where["video"]].flatten(2).unflatten(2, latent[1:4]) if where else x


def sound(x: Tensor, latent: Latent) -> Tensor:
    """The sound's tokens [B, C, L] of packed latents ``x``."""
    return x[:, :, modalities(latent)["audio"], 0, 0]


def with_layout(cond: dict[str, Tensor], latent: Latent) -> dict[str, Tensor]:
    """``cond`` and, for packed latents, the empty tensor that names their shape."""
    if len(latent) == 4:
        return cond
    one = next(iter(cond.values()))
    return cond | {LAYOUT: one.new_empty(len(one), 0, *latent[1:])}


def layout(cond: Cond, channels: int) -> Latent:
    """The shape (C, t, h, w, L) that ``cond`` names."""
    return (channels, *cond[LAYOUT].shape[2:])
