"""Read hidden features of a transformer's blocks by hooks.

A hook gets a block's output during the network's own call, so that no code here touches a parameter, and ZeRO-3 gathers
and releases as in any call. Under gradient checkpointing the checkpoint keeps this same output; the second call of a
block, in the backward, comes when the hooks are gone, and adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ray_distill.models.sequence import ranks_of


@contextmanager
def block_outputs(
    network: Any, blocks: Sequence[int], layers: str = "blocks", whole: Sequence[int] = ()
) -> Iterator[list[Tensor]]:
    """Yield a list that one call of ``network`` within the ``with`` fills with the outputs of ``blocks``, [B, tokens,
    D] each, block by block where a block has several. ``network`` is a transformer, or an engine around one, and has
    its blocks in ``layers``. ValueError for a number without a block.

    Where ranks share the tokens, the list has this rank's tokens during the call, and all tokens afterwards. Every rank
    has all tokens of those of a block's outputs whose places are ``whole``.
    """
    outputs: list[Tensor] = []
    at_hand: set[int] = set()
    every = getattr(network, layers) if blocks else ()
    count = len(every)
    if wrong := [i for i in blocks if not 0 <= i < count]:
        raise ValueError(f"features = {tuple(blocks)}: the network has blocks 0 to {count - 1}, and no {wrong[0]}")
    by_block: dict[int, tuple[Tensor, ...]] = {}

    def keep(i: int) -> Any:
        def hook(block: Any, args: Any, output: Tensor | tuple[Tensor, ...]) -> None:
            by_block[i] = output if isinstance(output, tuple) else (output,)
            if len(by_block) == len(set(blocks)):
                places, outputs[:] = zip(*((at, x) for i in blocks for at, x in enumerate(by_block[i])), strict=True)
                at_hand.update(n for n, at in enumerate(places) if at in whole)

        return hook

    with _collect(network, outputs, [every[i].register_forward_hook(keep(i)) for i in set(blocks)], at_hand):
        yield outputs


@contextmanager
def readings(network: Any, hidden: Sequence[Tensor], enabled: bool = True) -> Iterator[list[Tensor]]:
    """Use within :func:`block_outputs`: yield a list that the call fills with [B, tokens, out] for each of the
    ``hidden`` features, the output of the network's last norm and projection on it instead of on the last block's
    output.

    The features pass these layers in the same call, stacked on the last block's output, so that again no outside code
    touches a parameter, and a level per token applies to them as well.
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
def _collect(
    network: Any, outputs: list[Tensor], hooks: Sequence[Any], at_hand: Set[int] = frozenset()
) -> Iterator[None]:
    """Remove ``hooks`` after the block; where ranks share the tokens, gather ``outputs`` over them, but for those
    ``at_hand`` on every rank."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    if hooks and (ranks := ranks_of(network)) is not None:
        outputs[:] = [x if i in at_hand else ranks.gather(x) for i, x in enumerate(outputs)]
