"""Exit embeddings, added to a network's time embedding: they tell it at which exit a sample left the student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ray_distill.types import Cond

NAME = "exit_embedding"


def check_exits(network: nn.Module, key: str) -> None:
    """ValueError unless ``network`` (meta will do) has one embedding of the time, to which those of exits are added."""
    if len(_times(network)) != 1:
        raise ValueError(f"{key}: a {type(network).__name__} embeds its time in several places; remove it")


def _times(network: nn.Module) -> list[Any]:
    from diffusers.models.embeddings import TimestepEmbedding  # takes seconds to import

    return [part for part in network.modules() if isinstance(part, TimestepEmbedding)]


def add_exits(module: nn.Module, count: int) -> None:
    """Add ``count`` trainable embeddings, zero at first, to ``module``, which then takes an argument ``exit`` [B] from
    0."""
    (time,) = _times(module)
    embedding = nn.Embedding(count, time.linear_2.out_features)
    nn.init.zeros_(embedding.weight)
    module.add_module(NAME, embedding)
    pending: list[Tensor] = []

    def take(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        pending[:] = [kwargs.pop("exit")] if "exit" in kwargs else []
        return args, kwargs

    def add(_: nn.Module, args: Any, out: Tensor) -> Tensor:
        if not pending:
            return out
        each = embedding(pending[0]).to(out.dtype)  # [B, D]; out has a row per sample, or per token
        return out + (each[:, None] if out.ndim == 3 else each.repeat_interleave(len(out) // len(each), dim=0))

    module.register_forward_pre_hook(take, with_kwargs=True)
    time.register_forward_hook(add)


def exit_argument(cond: Cond) -> Mapping[str, Tensor]:
    """The argument ``exit`` of a network's call, where ``cond`` has one."""
    return {"exit": cond["exit"]} if "exit" in cond else {}
