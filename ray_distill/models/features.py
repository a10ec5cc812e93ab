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
def block_outputs(network: Any, blocks: Sequence[int]) -> Iterator[list[Tensor]]:
    """Fill the list, in the block, with the outputs of ``blocks``, [B, tokens, D] each, of one call of ``network`` (a
    transformer with ``blocks``, or an engine around one). ValueError for a number without a block.

    Where ranks share the tokens, the list has this rank's during the call and all of them afterwards.
    """
    outputs: list[Tensor] = []
    count = len(network.blocks) if blocks else 0
    if wrong := [i for i in blocks if not 0 <= i < count]:
        raise ValueError(f"features = {tuple(blocks)}: the network has blocks 0 to {count - 1}, and no {wrong[0]}")
    by_block: dict[int, Tensor] = {}

    def keep(i: int) -> Any:
        def hook(block: Any, args: Any, output: Tensor) -> None:
            by_block[i] = output
            if len(by_block) == len(set(blocks)):
                outputs[:] = [by_block[i] for i in blocks]

        return hook

    with _collect(network, outputs, [network.blocks[i].register_forward_hook(keep(i)) for i in set(blocks)]):
        yield outputs


@contextmanager
def readings(network: Any, hidden: Sequence[Tensor], enabled: bool = True) -> Iterator[list[Tensor]]:
    """Within :func:`block_outputs`: fill the list with the output of the network's last norm and projection for each of
    the ``hidden`` features, [B, tokens, out], in place of the last block's output.

    They pass these layers beside the last block's output, in the same call, so that again no parameter is touched from
    outside; a level for each token is theirs, too.
    """
    outputs: list[Tensor] = []

    def add(norm: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        return (torch.stack([args[0], *(x.to(args[0].dtype) for x in hidden)]),)

    def divide(projection: Any, args: Any, output: Tensor) -> Tensor:
        last, *rest = output.unbind()
        outputs.extend(rest)
        return last

    hooks: list[Any] = []
    if enabled:
        hooks = [network.norm_out.register_forward_pre_hook(add), network.proj_out.register_forward_hook(divide)]
    with _collect(network, outputs, hooks):
        yield outputs


@contextmanager
def _collect(network: Any, outputs: list[Tensor], hooks: Sequence[Any]) -> Iterator[None]:
    """Remove the ``hooks`` after the block, and gather the ``outputs`` where ranks share the tokens."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    if hooks and (ranks := ranks_of(network)) is not None:
        outputs[:] = map(ranks.gather, outputs)
