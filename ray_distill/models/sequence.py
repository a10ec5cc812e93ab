"""Sequence parallelism: several ranks share the tokens of one clip (DeepSpeed-Ulysses, arXiv 2309.14509).

Each rank holds an equal piece of the tokens through all layers. Around attention the ranks exchange pieces of tokens
for pieces of heads, so that within attention a rank has all tokens of its own heads. The network's output is gathered,
so that every rank computes the same whole loss. The gather's backward sums over the ranks: layers before the gather get
``size`` times the rank's piece of a gradient, and layers after it (a discriminator's heads) the whole gradient. In both
cases DeepSpeed's mean over all ranks is the gradient, and no factor is needed.

Tokens that take part in attention beside the clip's (a text) may be whole on every rank: a rank attends to them by its
own heads, and each gets their result from all ranks in the same exchange. Every rank then computes their layers, with a
part of their gradient; the mean over the ranks is whole again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from torch import Tensor, nn

HELD_BY = "sequence_ranks"
"""Attribute in which a network with split tokens keeps its :class:`Ranks`."""


class _Gather(torch.autograd.Function):
    """[B, tokens / size, ...] of each rank -> [B, tokens, ...]; the backward sums over the ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        pieces = x.new_empty(group.size(), *x.shape)
        dist.all_gather(list(pieces.unbind(0)), x.contiguous(), group)
        return pieces.movedim(0, 1).flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        pieces = gradients[0].unflatten(1, (ctx.group.size(), -1)).movedim(1, 0).contiguous()
        own = torch.empty_like(pieces[0])
        dist.reduce_scatter(own, list(pieces.unbind(0)), group=ctx.group)
        return own, None


@dataclass(frozen=True, eq=False)
class Ranks:
    """The ranks that share a clip, in the order of its tokens. All of them must call its methods in the same order."""

    group: dist.ProcessGroup

    @property
    def size(self) -> int:
        return self.group.size()

    @property
    def rank(self) -> int:
        return self.group.rank()

    def own(self, x: Tensor, dim: int = 1) -> Tensor:
        """This rank's piece of the whole tensor ``x`` along ``dim``."""
        assert x.shape[dim] % self.size == 0, f"{x.shape[dim]} tokens are no multiple of {self.size} ranks"
        return x.chunk(self.size, dim)[self.rank]

    def swap(self, x: Tensor) -> Tensor:
        """All-to-all of ``x`` [size, ...]: rank r gets piece r of each rank s as its piece s."""
        out: Tensor = funcol.all_to_all_single_autograd(x, None, None, self.group)
        return out

    def gather(self, x: Tensor) -> Tensor:
        """The whole tensor [B, tokens, ...] from all ranks' pieces; the backward sums over the ranks."""
        out: Tensor = _Gather.apply(x, self.group)
        return out

    def to_heads(self, x: Tensor, whole: int = 0) -> Tensor:
        """[B, whole + tokens / size, heads, D] -> [B, whole + tokens, heads / size, D]; each rank has the first
        ``whole`` tokens already, and they are not sent."""
        heads = self.swap(x[:, whole:].unflatten(2, (self.size, -1)).movedim(2, 0).contiguous())
        heads = heads.movedim(0, 1).flatten(1, 2)
        return torch.cat([self.own(x[:, :whole], 2), heads], 1) if whole else heads

    def to_tokens(self, x: Tensor, whole: int = 0) -> Tensor:
        """[B, whole + tokens, heads / size, D] -> [B, whole + tokens / size, heads, D]; the first ``whole`` tokens go
        to every rank."""
        pieces = x[:, whole:].unflatten(1, (self.size, -1))
        if whole:
            pieces = torch.cat([x[:, None, :whole].expand(-1, self.size, -1, -1, -1), pieces], 2)
        return self.swap(pieces.movedim(1, 0).contiguous()).movedim(0, 2).flatten(2, 3)


def make_ranks(size: int, timeout_s: float) -> Ranks | None:
    """The ``size`` neighbouring ranks that share this rank's clips; None for size 1. Every rank of the world calls it
    once."""
    if size == 1:
        return None
    timeout = timedelta(seconds=timeout_s)
    groups = [
        dist.new_group(list(range(first, first + size)), timeout=timeout)
        for first in range(0, dist.get_world_size(), size)
    ]
    return Ranks(groups[dist.get_rank() // size])


def split(network: nn.Module, ranks: Ranks | None, attention: Callable[[nn.Module, Ranks], None] | None) -> None:
    """Split the tokens of ``network`` among ``ranks``; the family's ``attention`` adds the exchanges around
    attention."""
    if ranks is not None:
        setattr(network, HELD_BY, ranks)
        assert attention is not None, "check refuses ranks that share a clip where a family has no exchange"
        attention(network, ranks)


def ranks_of(network: Any) -> Ranks | None:
    """The ranks that share the tokens of ``network``, or of an engine around it; None where it has all tokens."""
    ranks: Ranks | None = getattr(network, HELD_BY, None)
    return ranks


@contextmanager
def own_tokens(
    network: Any, enter: str, leave: str, dim: int = 1, whole: int = 0, tables: Sequence[str] = ()
) -> Iterator[None]:
    """Make one call of ``network`` within the block work on this rank's tokens alone: from the output of its layer
    ``enter`` to the output of its layer ``leave``, which is gathered. In the output of ``enter`` dimension ``dim``
    counts tokens, after later dimensions are flattened into it; the first ``whole`` of these, of text, stay on every
    rank. The layers ``tables`` make tables of positions [..., tokens, D], of which a rank keeps its piece.

    A timestep [B, tokens] is cut as well. The hooks stay only for one call, since an adapter may replace a layer
    between calls.
    """
    ranks = ranks_of(network)
    if ranks is None:
        yield
        return

    def cut_level(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        timestep = kwargs["timestep"]
        return args, kwargs | {"timestep": ranks.own(timestep) if timestep.ndim == 2 else timestep}

    def cut(layer: Any, args: Any, output: Tensor) -> Tensor:
        tokens = output.flatten(2)
        text, others = tokens.split([whole, tokens.shape[dim] - whole], dim)
        return torch.cat([text, ranks.own(others, dim)], dim)  # a view would keep the whole tensor in memory

    def cut_table(layer: Any, args: Any, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(ranks.own(table, -2).clone() for table in output)

    handles = [
        network.register_forward_pre_hook(cut_level, with_kwargs=True),
        getattr(network, enter).register_forward_hook(cut),
        getattr(network, leave).register_forward_hook(lambda layer, args, output: ranks.gather(output)),
        *(getattr(network, table).register_forward_hook(cut_table) for table in tables),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
