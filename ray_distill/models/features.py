"""Hidden features of a transformer, read from its blocks by hooks.

A hook sees a block's output while the block is called, so nothing here touches a parameter: ZeRO-3 gathers and releases
as in any other call. Under gradient checkpointing that output is what the checkpoint keeps, and the call in the
backward, when the hooks are gone, adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ray_distill.models.sequence import ranks_of


@contextmanager
def tapped(network: Any, blocks: Sequence[int]) -> Iterator[list[Tensor]]:
    """Inside, one call of ``network`` (a transformer with ``blocks``, or an engine around one) fills the list with what
    these blocks return, [B, tokens, D] each, in the order of ``blocks``. ValueError where there is no such block.

    Where ranks share the tokens, the list has this rank's inside and all of them afterwards."""
    taken: list[Tensor] = []
    if not blocks:
        yield taken
        return
    count = len(network.blocks)
    if wrong := [i for i in blocks if not 0 <= i < count]:
        raise ValueError(f"features = {tuple(blocks)}: the network has blocks 0 to {count - 1}, and no {wrong[0]}")
    seen: dict[int, Tensor] = {}

    def keep(i: int) -> Any:
        def hook(block: Any, args: Any, output: Tensor) -> None:
            seen[i] = output
            if len(seen) == len(set(blocks)):
                taken[:] = [seen[i] for i in blocks]

        return hook

    handles = [network.blocks[i].register_forward_hook(keep(i)) for i in set(blocks)]
    try:
        yield taken
    finally:
        for handle in handles:
            handle.remove()
    if (ranks := ranks_of(network)) is not None:
        taken[:] = map(ranks.gather, taken)


@contextmanager
def read_out(network: Any, taken: Sequence[Tensor], wanted: bool = True) -> Iterator[list[Tensor]]:
    """Inside a :func:`tapped` call: fills the list with what the network's last norm and projection make of each of the
    features ``taken``, [B, tokens, out], in the place of the last block's output.

    They pass these layers beside the last block's output, in the same call, so that again no parameter is touched from
    outside; a level a token is theirs, too.
    """
    read: list[Tensor] = []
    if not wanted:
        yield read
        return

    def add(norm: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        return (torch.stack([args[0], *(x.to(args[0].dtype) for x in taken)]),)

    def divide(projection: Any, args: Any, output: Tensor) -> Tensor:
        last, *rest = output.unbind()
        read.extend(rest)
        return last

    handles = [network.norm_out.register_forward_pre_hook(add), network.proj_out.register_forward_hook(divide)]
    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()
    if (ranks := ranks_of(network)) is not None:
        read[:] = map(ranks.gather, read)
