"""Adapters under ComfyUI's names: `diffusion_model.` and the layer's name in the network's original code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ray_distill.models.lora import LoRA
from ray_distill.models.spec import Family

PREFIX = "diffusion_model"


def original_name(layer: str, family: Family) -> str:
    """The original code's name for diffusers' ``layer``; ValueError where the family declares none."""
    for ours, theirs in (family.original or {}).items():
        if f".{ours}." in f".{layer}.":
            return f".{layer}.".replace(f".{ours}.", f".{theirs}.").strip(".")
    raise ValueError(f"{layer!r} has no name in ComfyUI; set model.comfyui_lora=false, or adapt other layers")


def comfyui_tensors(family: Family, lora: LoRA, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapter ``tensors``, ``LAYER.lora_A.weight`` and ``LAYER.lora_B.weight``, under ComfyUI's names. B is
    multiplied by alpha / rank, and no ``alpha`` is written: without ``alpha`` readers of these files use the factor 1,
    and with it diffusers refuses most layers."""
    factor = (lora.alpha or lora.rank) / lora.rank
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer, side, rest = name.rpartition(".lora_A." if ".lora_A." in name else ".lora_B.")
        scaled = tensor * factor if "lora_B" in side else tensor
        named[f"{PREFIX}.{original_name(layer, family)}{side}{rest}"] = scaled.contiguous()
    return named


def save_comfyui(path: Path, family: Family, lora: LoRA, tensors: Mapping[str, Tensor]) -> None:
    """Write the adapter as one file for ComfyUI."""
    with torch.no_grad():
        save_file(comfyui_tensors(family, lora, tensors), path, {"format": "pt"})
