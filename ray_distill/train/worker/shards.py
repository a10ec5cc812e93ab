"""Move whole fp32 tensors in and out of a parameter's shards, under every ZeRO stage."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ray_distill.train.worker.light_deepspeed import deepspeed
from ray_distill.train.worker.zero0 import is_whole, state_of

MOMENTS = ("exp_avg", "exp_avg_sq")


def master(parameter: nn.Parameter) -> Tensor:
    """The whole fp32 master weights (a collective)."""
    if is_whole(parameter):
        return parameter.detach().clone()
    weights: Tensor = deepspeed.utils.safe_get_full_fp32_param(parameter)
    return weights


def moment(parameter: nn.Parameter, name: str) -> Tensor:
    """A whole moment of AdamW, by its name there (a collective)."""
    if is_whole(parameter):
        own: Tensor = state_of(parameter)[name].clone()
        return own
    value: Tensor = deepspeed.utils.safe_get_full_optimizer_state(parameter, name)
    return value


def _is_zero3(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_id")


def local_shard(parameter: nn.Parameter) -> Tensor | None:
    """A view of this rank's piece of the fp32 master weights, or None where this rank holds none of it."""
    if _is_zero3(parameter):
        shard: Tensor = deepspeed.utils.safe_get_local_fp32_param(parameter)
        return shard
    if is_whole(parameter):
        return parameter.data.view(-1)
    mapping = parameter._hp_mapping  # type: ignore[attr-defined]
    return None if mapping is None else mapping.get_hp_fragment()


def local_shards(parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[str, Tensor]:
    """This rank's pieces by name; what it holds nothing of is left out."""
    return {name: shard for name, parameter in parameters if (shard := local_shard(parameter)) is not None}


def _shard_start(parameter: nn.Parameter) -> int:
    """Where this rank's piece starts in the flat parameter."""
    if _is_zero3(parameter):
        return dist.get_rank() * int(parameter.ds_tensor.ds_numel)  # type: ignore[attr-defined]
    if is_whole(parameter):
        return 0
    return int(parameter._hp_mapping.lp_fragment_address.start)  # type: ignore[attr-defined]


def whole_shape(parameter: nn.Parameter) -> torch.Size:
    return parameter.ds_shape if _is_zero3(parameter) else parameter.shape  # type: ignore[attr-defined]


def whole(parameter: nn.Parameter, shard: Tensor | None) -> Tensor:
    """The whole tensor of which every rank holds a shard laid out as ``parameter``'s (a collective)."""
    shape = whole_shape(parameter)
    if is_whole(parameter):
        assert shard is not None
        return shard.clone().reshape(shape)
    flat = torch.zeros(shape.numel(), dtype=torch.float32, device=parameter.device)
    if shard is not None:
        piece = flat[_shard_start(parameter) :][: shard.numel()]
        piece.copy_(shard[: piece.numel()])
    dist.all_reduce(flat)
    return flat.reshape(shape)


def piece(parameter: nn.Parameter, value: Tensor, numel: int) -> Tensor:
    """This rank's ``numel`` elements of a whole tensor, zero past its end."""
    cut = value.new_zeros(numel)
    mine = value.flatten()[_shard_start(parameter) :][:numel]
    cut[: mine.numel()] = mine
    return cut


def set_shard(parameter: nn.Parameter, shard: Tensor | None, value: Tensor) -> None:
    """Set a shard laid out as ``parameter``'s from the whole tensor."""
    if shard is not None:
        shard.copy_(piece(parameter, value.to(shard.device), shard.numel()))


def set_from_shard(frozen: nn.Parameter, parameter: nn.Parameter, shard: Tensor | None) -> None:
    """Give a frozen weight the value whose shards are laid out as ``parameter``'s; under ZeRO-3 without communication,
    else a collective."""
    if _is_zero3(frozen):
        frozen.ds_tensor.copy_(shard)  # type: ignore[attr-defined]
    else:
        frozen.data.copy_(whole(parameter, shard))  # in fp32: gloo adds no bf16


def set_master(parameter: nn.Parameter, value: Tensor, moment: str | None = None) -> None:
    """Set the fp32 master weights (or a moment of AdamW) from the whole tensor; each rank keeps its piece."""
    if is_whole(parameter):
        with torch.no_grad():
            (parameter if moment is None else state_of(parameter)[moment]).copy_(value)
        return
    if not _is_zero3(parameter):
        if moment is None:
            deepspeed.utils.safe_set_full_fp32_param(parameter, value)
        else:
            deepspeed.utils.safe_set_full_optimizer_state(parameter, value, moment)
        return
    # ZeRO-3 cuts a tensor into equal pieces, so the last reaches past its end; the full setter fails on such a one.
    mine = piece(parameter, value, int(parameter.ds_tensor.ds_numel))  # type: ignore[attr-defined]
    if moment is None:
        deepspeed.utils.safe_set_local_fp32_param(parameter, mine)
    else:
        deepspeed.utils.safe_set_local_optimizer_state(parameter, mine, moment)


def set_compute_weights(parameter: nn.Parameter, weights: Tensor) -> None:
    """The weights that the next forward uses are not the masters: without this the first step runs on the old ones."""
    if _is_zero3(parameter):
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if dist.get_rank() == 0:
                parameter.data.copy_(weights)
    else:
        parameter.data.copy_(weights)
