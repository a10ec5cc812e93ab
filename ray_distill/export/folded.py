"""Fold LoRAs that were merged into a student's base into its adapter, so that the file fits the published network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ray_distill.models.lora import LoRA
from ray_distill.models.lora_files import LoRATensors


def folded(
    lora: LoRA, tensors: Mapping[str, Tensor], merged: Sequence[LoRATensors]
) -> tuple[LoRA, Mapping[str, Tensor]]:
    """The adapter whose product is the sum of those of ``lora``, with its ``tensors`` by plain name, and of the
    ``merged`` files: B = [B_1 .. B_n], A = [A_1; ..; A_n] of each layer, with the factors inside B.

    All layers get the rank of the largest sum, and zeros where their own is lower.
    """
    own = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]
    layers = dict.fromkeys([*own, *(layer for file in merged for layer in file.layers)])
    sums = {layer: _sum(lora, tensors, [file for file in merged if layer in file.layers], layer) for layer in layers}
    rank = max(len(a) for a, _ in sums.values())
    result: dict[str, Tensor] = {}
    for layer, (a, b) in sums.items():
        more = rank - len(a)
        result[f"{layer}.lora_A.weight"] = torch.nn.functional.pad(a, (0, 0, 0, more))
        result[f"{layer}.lora_B.weight"] = torch.nn.functional.pad(b, (0, more))
    return LoRA(rank=rank, targets=tuple(layers)), result


def _sum(lora: LoRA, tensors: Mapping[str, Tensor], files: Sequence[LoRATensors], layer: str) -> tuple[Tensor, Tensor]:
    """(A [sum of ranks, in], B [out, sum of ranks]) of one layer."""
    pairs = [file.factors(layer) for file in files]
    if f"{layer}.lora_A.weight" in tensors:
        a, b = (tensors[f"{layer}.lora_{part}.weight"].float() for part in "AB")
        pairs.append((a, b * ((lora.alpha or lora.rank) / lora.rank)))
    return torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], dim=1)
