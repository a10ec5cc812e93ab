"""Spread a network over several GPUs by its layers, where one does not hold it; one GPU after another computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

Layout = dict[str, Any]
"""Devices of blocks by their names; all else is on the first device, which has the name ""."""


def layout(network: nn.Module, devices: Sequence[Any]) -> Layout:
    """Devices of the blocks of ``network``, which may be on the meta device: in order, with about equal bytes for each
    device, and never a block on two."""
    blocks = {name: _bytes(block) for name, block in _blocks(network)}
    total = max(1, _bytes(network))
    before, on = total - sum(blocks.values()), {"": devices[0]}
    for name, size in blocks.items():
        on[name] = devices[min(len(devices) - 1, int(len(devices) * (before + size / 2) / total))]
        before += size
    return on


def _blocks(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in network.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{name}.{at}", block) for at, block in enumerate(child))


def _bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def device_of(name: str, on: Layout) -> Any:
    """The device of the parameter ``name``."""
    return on.get(".".join(name.split(".")[:2]), on[""])


def spread(network: nn.Module, on: Layout) -> nn.Module:
    """Let each block of ``network``, whose weights are where ``on`` says, take its inputs to its own device. Outputs of
    blocks stay there, except the last block's: it goes to the first device, where the rest of the network is."""
    for prefix, part in network.named_modules():
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, buffer.to(device_of(f"{prefix}.{name}".removeprefix("."), on)))
    for name, block in _blocks(network):
        block.register_forward_pre_hook(partial(_enter, on[name]), with_kwargs=True)
    for blocks in network.children():
        if isinstance(blocks, nn.ModuleList) and len(blocks):
            blocks[-1].register_forward_hook(lambda _module, _args, output: _to(on[""], output))
    return network


def _enter(device: Any, _module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    return _to(device, args), _to(device, kwargs)


def _to(device: Any, values: Any) -> Any:
    return tree_map(lambda value: value.to(device) if isinstance(value, Tensor) else value, values)
