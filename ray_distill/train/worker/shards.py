"""Move whole fp32 tensors in and out of a parameter's shards, under every ZeRO stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ray_distill.checkpoint.layout import piece_name
from ray_distill.train.worker.light_deepspeed import deepspeed
from ray_distill.train.worker.zero0 import is_whole, state_of

MOMENTS = ("exp_avg", "exp_avg_sq")
BUCKET_BYTES = 64 << 20  # bytes of tensors that are made whole at once
K = TypeVar("K")
Piece = tuple[K, nn.Parameter, Tensor | None]
"""(key, parameter, this rank's flat shard of a tensor with the parameter's layout; None if it holds none)"""


def is_cut(parameter: nn.Parameter) -> bool:
    """True under ZeRO-3, where each rank has a piece of every parameter."""
    return hasattr(parameter, "ds_id")


def local_shard(parameter: nn.Parameter, moment: str | None = None) -> Tensor | None:
    """This rank's flat piece of the fp32 master weights (a view), or of a moment of AdamW by its name there; None
    if this rank holds none of it."""
    if is_cut(parameter):
        shard: Tensor = (
            deepspeed.utils.safe_get_local_fp32_param(parameter)
            if moment is None
            else deepspeed.utils.safe_get_local_optimizer_state(parameter, moment)
        )
        return shard
    if is_whole(parameter):
        return (parameter.data if moment is None else state_of(parameter)[moment]).view(-1)
    mapping = parameter._hp_mapping  # type: ignore[attr-defined]
    return None if mapping is None else mapping.get_hp_fragment(moment)


def _shard_start(parameter: nn.Parameter) -> int:
    """Start of this rank's piece in the flat parameter."""
    if is_cut(parameter):
        return dist.get_rank() * int(parameter.ds_tensor.ds_numel)  # type: ignore[attr-defined]
    if is_whole(parameter):
        return 0
    return int(parameter._hp_mapping.lp_fragment_address.start)  # type: ignore[attr-defined]


def whole_shape(parameter: nn.Parameter) -> torch.Size:
    return parameter.ds_shape if is_cut(parameter) else parameter.shape  # type: ignore[attr-defined]


def gathered(pieces: Iterable[Piece[K]]) -> Iterator[tuple[K, Tensor]]:
    """Yield whole fp32 tensors by key; every rank gives its pieces in the same order.

    One collective for each ``BUCKET_BYTES`` of tensors, or for one larger tensor; none at stage 0. The tensors of a
    bucket are views of one buffer.
    """
    bucket: list[Piece[K]] = []
    left = BUCKET_BYTES
    for piece in pieces:
        size = 4 * whole_shape(piece[1]).numel()
        if bucket and size > left:
            yield from _gathered(bucket)
            bucket, left = [], BUCKET_BYTES
        bucket.append(piece)
        left -= size
    yield from _gathered(bucket)


def _gathered(bucket: Sequence[Piece[K]]) -> Iterator[tuple[K, Tensor]]:
    sharded = [(parameter, shard) for _, parameter, shard in bucket if not is_whole(parameter)]
    parts = iter(_summed(sharded) if sharded else ())
    for key, parameter, shard in bucket:
        value = shard.clone() if is_whole(parameter) and shard is not None else next(parts)
        yield key, value.reshape(whole_shape(parameter))


@torch.no_grad()
def _summed(pieces: Sequence[tuple[nn.Parameter, Tensor | None]]) -> Sequence[Tensor]:
    """Flat whole tensors, by one all_reduce of integers: each element is one rank's bits, and 0 on all others."""
    sizes = [whole_shape(parameter).numel() for parameter, _ in pieces]
    flat = torch.zeros(sum(sizes), dtype=torch.float32, device=deepspeed.get_accelerator().current_device_name())
    parts = flat.split(sizes)
    for (parameter, shard), part in zip(pieces, parts, strict=True):
        if shard is not None:  # under ZeRO-3 the last piece reaches past the end
            own = part[_shard_start(parameter) :][: shard.numel()]
            own.copy_(shard[: own.numel()])
    dist.all_reduce(flat.view(torch.int32))
    return parts


def named(pieces: Iterable[Piece[tuple[K, str]]]) -> Iterator[tuple[K, str, Tensor]]:
    """This rank's flat pieces as a checkpoint names them: no collective, and no copy."""
    for (key, name), parameter, shard in pieces:
        assert shard is not None, f"{name} is not in pieces"
        shape, start = whole_shape(parameter), _shard_start(parameter)
        own = shard[: max(0, shape.numel() - start)]  # ZeRO-3 fills the last piece up
        if len(own) == shape.numel():
            yield key, name, own.view(shape)
        elif len(own):
            yield key, piece_name(name, start, shape), own


def masters(parameters: Iterable[tuple[str, nn.Parameter]]) -> Iterator[tuple[str, Tensor]]:
    """The whole fp32 master weights by name (collectives)."""
    return gathered((name, parameter, local_shard(parameter)) for name, parameter in parameters)


def piece(parameter: nn.Parameter, value: Tensor, numel: int) -> Tensor:
    """This rank's ``numel`` elements of a whole tensor, zero past its end."""
    cut = value.new_zeros(numel)
    mine = value.flatten()[_shard_start(parameter) :][:numel]
    cut[: mine.numel()] = mine
    return cut


def set_from_shards(pieces: Iterable[Piece[nn.Parameter]]) -> None:
    """Set each frozen weight, the key, to a value of which every rank has its piece; without communication under
    ZeRO-3, where both have one layout, else by collectives."""
    below: list[Piece[nn.Parameter]] = []
    for frozen, parameter, shard in pieces:
        if is_cut(frozen):
            frozen.ds_tensor.copy_(shard)  # type: ignore[attr-defined]
        else:
            below.append((frozen, parameter, shard))
    for frozen, value in gathered(below):
        frozen.data.copy_(value)


def set_master(parameter: nn.Parameter, value: Tensor, moment: str | None = None) -> None:
    """Set the fp32 master weights (or a moment of AdamW) from the whole tensor; each rank keeps its piece."""
    if is_whole(parameter):
        with torch.no_grad():
            (parameter if moment is None else state_of(parameter)[moment]).copy_(value)
        return
    if not is_cut(parameter):
        if moment is None:
            deepspeed.utils.safe_set_full_fp32_param(parameter, value)
        else:
            deepspeed.utils.safe_set_full_optimizer_state(parameter, value, moment)
        return
    # ZeRO-3 cuts a tensor into equal pieces, so the last may reach past its end; the full setter fails on such a piece.
    mine = piece(parameter, value, int(parameter.ds_tensor.ds_numel))  # type: ignore[attr-defined]
    if moment is None:
        deepspeed.utils.safe_set_local_fp32_param(parameter, mine)
    else:
        deepspeed.utils.safe_set_local_optimizer_state(parameter, mine, moment)


def set_compute_weights(parameter: nn.Parameter, weights: Tensor) -> None:
    """Set the weights of the next forward. They are not the masters: without this the first step would use the old
    weights."""
    if is_cut(parameter):
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if dist.get_rank() == 0:
                parameter.data.copy_(weights)
    else:
        parameter.data.copy_(weights)


def set_weights(parameter: nn.Parameter, weights: Tensor) -> None:
    """Set the fp32 master weights and the compute weights from the whole tensor."""
    set_master(parameter, weights)
    set_compute_weights(parameter, weights)
