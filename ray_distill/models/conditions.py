"""Turn rows of conditioning into batches and into stored bytes, by one rule of padding.

A row (``spec.Row``) has the tensors of one sample, without padding; Cond has those of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_distill.diffusion.layout import LAYOUT
from ray_distill.models.packed import with_layout
from ray_distill.models.spec import Field, Fields, Latent, Row, of_captions, of_clips
from ray_distill.types import Cond

MASK = "_mask"


def collate(rows: Sequence[Row], fields: Fields, latent: Latent = (0, 0, 0, 0)) -> dict[str, Tensor]:
    """Join ``rows`` into a batch's Cond of ``fields``, for latents of the shape ``latent``, on the rows' device.

    ValueError where a row has another shape than its field.
    """
    cond: dict[str, Tensor] = {}
    for name, field in fields.items():
        values = [row[name] for row in rows]
        if field.padding == "whole":
            cond[name] = torch.stack(values)
            continue
        most = int(field.shape[0])
        if longest := max((len(value) for value in values if len(value) > most), default=0):
            raise ValueError(f"{name} of {longest} tokens: the family declares {most} at most")
        cond[name] = torch.stack([F.pad(value, (0, 0) * (value.ndim - 1) + (0, most - len(value))) for value in values])
        if field.padding == "mask":
            lengths = torch.tensor([len(value) for value in values], device=values[0].device)
            cond[name + MASK] = torch.arange(most, device=lengths.device) < lengths[:, None]
    return with_layout(cond, latent)


def unconditional(captions: Row, cond: Cond, fields: Fields) -> dict[str, Tensor]:
    """The unconditional branch of ``cond``: each caption is replaced by ``captions``, the row of the negative prompt,
    and the fields of clips stay."""
    count = len(next(iter(cond.values())))
    device = next(iter(cond.values())).device
    null = collate([captions], of_captions(fields))
    return {name: value.to(device).expand(count, *value.shape[1:]) for name, value in null.items()} | {
        name: cond[name] for name in (*of_clips(fields), LAYOUT) if name in cond
    }


def empty(fields: Fields, rows: int, latent: Latent) -> dict[str, Tensor]:
    """Cond with uninitialised tensors for ``rows`` samples, to count memory and operations."""
    cond = {name: torch.empty(rows, *field.sizes(latent)) for name, field in fields.items()}
    masks = {name + MASK: int(field.shape[0]) for name, field in fields.items() if field.padding == "mask"}
    cond |= {name: torch.empty(rows, most, dtype=torch.bool) for name, most in masks.items()}
    return with_layout(cond, latent)


def to_bytes(name: str, value: Tensor, field: Field, latent: Latent = (0, 0, 0, 0)) -> bytes:
    """The bytes of a field's value for its store; ValueError where its shape is not the field's for ``latent``."""
    sizes = field.sizes(latent)
    value_shape = tuple(value.shape) if field.padding == "whole" else (sizes[0], *value.shape[1:])
    if value_shape != sizes:
        raise ValueError(
            f"{name} is {list(value.shape)}, and its family declares {list(sizes)}; give a folder whose parts belong "
            "together"
        )
    stored = value.detach().to("cpu", getattr(torch, field.dtype)).contiguous()
    return bytes(stored.view(torch.uint8).numpy().tobytes())


def from_bytes(stored: Mapping[str, bytes], fields: Fields, latent: Latent) -> dict[str, Tensor]:
    """The row of the ``stored`` bytes, for latents of the shape ``latent``."""
    row = {}
    for name, field in fields.items():
        sizes = field.sizes(latent)
        dtype = getattr(torch, field.dtype)
        if not stored[name]:  # a caption without tokens of this kind
            row[name] = torch.empty(0, *sizes[1:], dtype=dtype)
            continue
        flat = torch.frombuffer(bytearray(stored[name]), dtype=dtype)
        row[name] = flat.reshape(sizes if field.padding == "whole" else (-1, *sizes[1:]))
    return row
