"""Load one role's network with its LoRA merged, from a checkpoint or from its initial weights, to sample or export
it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ray_distill.checkpoint.reader import Checkpoint
from ray_distill.config import RunConfig
from ray_distill.models.layers import device_of, layout, spread
from ray_distill.models.loading import cast, empty_transformer, hollow_transformer, own_parameters, random_transformer
from ray_distill.models.lora import LoRA
from ray_distill.models.weights import Weights


class MergedTensors(Mapping[str, Tensor]):
    """The fp32 tensors of a trained network by name: from a checkpoint, and from its source where adapters are merged.

    Each access reads one tensor; none stays in memory.
    """

    def __init__(
        self,
        network: nn.Module,
        source: Weights | None,
        checkpoint: Checkpoint,
        role: str,
        kind: str,
        lora: LoRA | None,
    ) -> None:
        """Read the tensors of ``role`` of one ``kind``, "weights" or "ema"; ValueError where they do not fit
        ``network``."""
        self._source, self._checkpoint, self._role, self._kind, self._lora = source, checkpoint, role, kind, lora
        self._shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
        self._stored = checkpoint.shapes(role, kind)
        shapes = self._shapes if lora is None else _adapter_shapes(network, lora)
        if wrong := {
            name for name in shapes.keys() | self._stored.keys() if shapes.get(name) != self._stored.get(name)
        }:
            what = "weights are another model's"
            if lora is not None:
                what = "adapter is another model's, or of another rank or targets"
            raise ValueError(f"the {what}: {min(wrong)} does not fit")

    def __getitem__(self, name: str) -> Tensor:
        if name in self._stored:
            return self._read(name)
        assert self._source is not None and self._lora is not None
        weight, layer = self._source[name].float(), name.removesuffix(".weight")
        if f"{layer}.lora_A.weight" not in self._stored:
            return weight
        a, b = (self._read(f"{layer}.lora_{part}.weight") for part in "AB")
        return weight + (b @ a) * ((self._lora.alpha or self._lora.rank) / self._lora.rank)

    def _read(self, name: str) -> Tensor:
        return self._checkpoint.tensor(self._role, self._kind, name).float()

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def _adapter_shapes(network: nn.Module, lora: LoRA) -> dict[str, tuple[int, ...]]:
    """The shapes, by plain name, of all parameters of ``network`` that ``lora`` trains."""
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters() if lora.trains_whole(name)}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear) and lora.adapts(name):
            shapes[f"{name}.lora_A.weight"] = lora.rank, layer.in_features
            shapes[f"{name}.lora_B.weight"] = layer.out_features, lora.rank
    return shapes


def outline(
    config: RunConfig, role: str, checkpoint: Path, dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, Mapping[str, Tensor] | None]:
    """(a role's network on the meta device, its tensors by name). The network has ``dtype``, except parts that
    diffusers keeps in fp32. A trained role's tensors are its average where the checkpoint has one.

    A role whose stage has not begun has its initial weights. An untrained role with random weights has no file: the
    result is then (the network with its weights, None).
    """
    family, path, trained = config.model.family, config.source(role), _trained(config, role, checkpoint)
    source: Weights | None = None
    if config.role(role).init == "random":
        if not trained:
            return load_network(config, role, None, dtype=dtype), None
        network = cast(empty_transformer(family, path), dtype)
    else:
        network, source = hollow_transformer(family, path, dtype, config.loras(role))
    return network, _merge(config, role, network, source, checkpoint, averaged=True) if trained else source


def _trained(config: RunConfig, role: str, checkpoint: Path) -> bool:
    """True where ``checkpoint`` has trained tensors of ``role``: the method trains the role, and its stage has
    begun."""
    trains = config.method.roles[role] == "trained"
    return trains and role in Checkpoint(checkpoint).state.get("roles", {role})


def _merge(
    config: RunConfig, role: str, network: nn.Module, source: Weights | None, checkpoint: Path, averaged: bool
) -> MergedTensors:
    kind = config.sampled_tensors(role) if averaged else "weights"
    return MergedTensors(network, source, Checkpoint(checkpoint), role, kind, config.role(role).lora)


def load_network(
    config: RunConfig,
    role: str,
    checkpoint: Path | None,
    averaged: bool = True,
    dtype: torch.dtype = torch.float32,
    devices: Sequence[Any] = ("cpu",),
) -> nn.Module:
    """Load a role's network, frozen: from a checkpoint (with ``averaged`` its average, where there is one), or with its
    initial weights where there is no checkpoint, or the role's stage has not begun.

    Tensors are cast to ``dtype`` one by one, except parts that diffusers keeps in fp32, and go directly to their
    device; over several of ``devices`` the network is spread by its layers. Adapters are merged in fp32 into the
    weights that they adapt.
    """
    family, path = config.model.family, config.source(role)
    source: Weights | None = None
    if config.role(role).init == "random":
        network = cast(random_transformer(family, path, config.seed), dtype)
    else:
        network, source = hollow_transformer(family, path, dtype, config.loras(role))
    tensors: Mapping[str, Tensor] = source if source is not None else dict(network.named_parameters())
    if checkpoint is not None and _trained(config, role, checkpoint):
        tensors = _merge(config, role, network, source, checkpoint, averaged)
    on = layout(network, devices)
    for owner, last, name, parameter in own_parameters(network):
        value = tensors[name].detach().to(device_of(name, on), parameter.dtype, copy=True)
        setattr(owner, last, nn.Parameter(value))
    network = network.eval().requires_grad_(False)
    return network.to(devices[0]) if len(devices) == 1 else spread(network, on)
