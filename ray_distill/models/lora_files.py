"""LoRA files in diffusers', ComfyUI's or Kohya's names, merged into weights: W + w (alpha / rank) B A."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ray_distill.models.lora import ends_in
from ray_distill.models.outlines import Shapes
from ray_distill.models.spec import Family
from ray_distill.models.weights import Weights
from ray_distill.settings import Absolute, Section

COMFYUI, KOHYA = "diffusion_model", "lora_unet"
"""The first parts of names in adapters for ComfyUI and for Kohya's scripts."""
DIFFUSERS = "transformer"
"""The first part of names in adapters that diffusers' pipelines write."""
PARTS = {
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora_A.default.weight": "A",
    ".lora_B.default.weight": "B",
    ".lora_down.weight": "A",
    ".lora_up.weight": "B",
    ".alpha": "alpha",
}
"""Ends of a tensor's name, behind the layer's: A [rank, in], B [out, rank], alpha []."""
METADATA = "lora_adapter_metadata"
"""diffusers' key in a file's header for the settings of peft."""


class LoRAFile(Section):
    """A LoRA that is merged into the networks of ``model.path``."""

    path: Absolute
    """A .safetensors file in diffusers', ComfyUI's (diffusion_model.) or Kohya's (lora_unet_) names."""
    weight: Annotated[float, Field(ge=-100, le=100)] = 1.0
    """Factor of the LoRA's change, beside its own alpha / rank."""
    expert: Literal["high", "low", "both"] | None = None
    """For a pipeline of two experts, the one that the LoRA belongs to: of high noise, of low noise, or both."""

    @field_validator("weight")
    @classmethod
    def _has_an_effect(cls, value: float) -> float:
        if value == 0:
            raise ValueError("weight = 0: the LoRA would change nothing; remove it from model.loras")
        return value


def renamed(name: str, names: Mapping[str, str]) -> str | None:
    """``name`` with the first of ``names`` that is a whole dotted part of it replaced; None where there is none."""
    for ours, theirs in names.items():
        if f".{ours}." in f".{name}.":
            return f".{name}.".replace(f".{ours}.", f".{theirs}.").strip(".")
    return None


def spellings(layer: str, family: Family) -> tuple[str, ...]:
    """Names of diffusers' ``layer`` in LoRA files."""
    original = renamed(layer, family.original or {})
    others = () if original is None else (f"{COMFYUI}.{original}", original, f"{KOHYA}_{original.replace('.', '_')}")
    return (f"{DIFFUSERS}.{layer}", layer, *others)


class LoRATensors:
    """The adapters of one file by the names of a network's linear layers."""

    def __init__(self, file: LoRAFile, network: nn.Module, family: Family, key: str = "model.loras") -> None:
        """Read the file's header. ``network`` may be on the meta device. ValueError, which names ``key``, for a missing
        file, a tensor that belongs to no linear layer, and a wrong shape."""
        self.file, self._where = file, f"{key}: {file.path}"
        self._open = self._opened()
        linear = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
        self.layers = self._by_layer(linear, type(network).__name__, family)
        """Layer -> the names in the file of its "A", "B" and perhaps "alpha"."""
        self._settings = self._peft()
        self._check(linear)

    def _opened(self) -> Any:
        path: Path = self.file.path
        if not path.is_file():
            raise ValueError(f"{self._where}: no such file; give a LoRA's .safetensors file")
        try:
            return safe_open(path, "pt")
        except SafetensorError as error:
            raise ValueError(f"{self._where} is no safetensors file: {error}") from error

    def _by_layer(self, linear: Mapping[str, nn.Linear], kind: str, family: Family) -> dict[str, dict[str, str]]:
        layer_of = {spelling: layer for layer in linear for spelling in spellings(layer, family)}
        layers: dict[str, dict[str, str]] = {}
        for name in self._open.keys():  # noqa: SIM118
            end = next((end for end in PARTS if name.endswith(end)), "")
            layer = layer_of.get(name.removesuffix(end)) if end else None
            if layer is None:
                raise ValueError(f"{self._where}: {name!r} {self._unknown(name, end, kind, layer_of)}")
            if (other := layers.setdefault(layer, {}).setdefault(PARTS[end], name)) != name:
                raise ValueError(f"{self._where}: {other!r} and {name!r} are the same tensor of {layer}; keep one")
        if not layers:
            raise ValueError(f"{self._where} has no tensors")
        return layers

    def _unknown(self, name: str, end: str, kind: str, spelt: Mapping[str, str]) -> str:
        if not end:
            return (
                "is neither A, B nor alpha of a LoRA (lora_A and lora_B, or lora_down and lora_up); other kinds of "
                "adapters and changes of biases or norms cannot be merged"
            )
        near = difflib.get_close_matches(name.removesuffix(end), spelt, n=1, cutoff=0.8)
        hint = f"; its nearest layer is {near[0]!r}" if near else ""
        return f"belongs to no linear layer of this {kind}{hint}. Give a LoRA of this network alone"

    def _peft(self) -> dict[str, Any]:
        """peft's settings from the header, as diffusers writes them; empty where there are none."""
        text = (self._open.metadata() or {}).get(METADATA)
        settings = json.loads(text) if text else {}
        own = {name.removeprefix(f"{DIFFUSERS}."): value for name, value in settings.items()}
        if own.get("use_dora"):
            raise ValueError(f"{self._where}: this is a DoRA, which cannot be merged; give a plain LoRA")
        for end in own.get("alpha_pattern") or ():
            if not any(ends_in(layer, end) for layer in self.layers):
                raise ValueError(f"{self._where}: its alpha_pattern names {end!r}, which is no layer of the file")
        return own

    def _check(self, linear: Mapping[str, nn.Linear]) -> None:
        for layer, names in self.layers.items():
            if missing := {"A", "B"} - names.keys():
                raise ValueError(f"{self._where}: {layer} has {sorted(names.values())} without {min(missing)} of B A")
            (out, width), shapes = linear[layer].weight.shape, {part: self._shape(names[part]) for part in "AB"}
            if shapes["A"][1:] != [width] or shapes["B"] != [out, shapes["A"][0]]:
                raise ValueError(
                    f"{self._where}: {layer} is [{out}, {width}], and {names['A']!r} is {shapes['A']}, "
                    f"{names['B']!r} {shapes['B']}; this LoRA is of another network"
                )
            if "alpha" in names and math.prod(self._shape(names["alpha"])) != 1:
                raise ValueError(f"{self._where}: {names['alpha']!r} is no number")
            if not math.isfinite(self.scale(layer)):
                raise ValueError(f"{self._where}: alpha / rank of {layer} is {self.scale(layer)}")

    def _shape(self, name: str) -> list[int]:
        return list(self._open.get_slice(name).get_shape())

    def scale(self, layer: str) -> float:
        """weight alpha / rank of a layer. Without alpha, the factor alpha / rank is 1."""
        names = self.layers[layer]
        rank = self._shape(names["A"])[0]
        if "alpha" in names:
            alpha = float(self._open.get_tensor(names["alpha"]))
        elif "lora_alpha" in self._settings:
            patterns = self._settings.get("alpha_pattern") or {}
            alpha = float(next((a for end, a in patterns.items() if ends_in(layer, end)), self._settings["lora_alpha"]))
        else:
            alpha = float(rank)
        return self.file.weight * alpha / (rank**0.5 if self._settings.get("use_rslora") else rank)

    def factors(self, layer: str) -> tuple[Tensor, Tensor]:
        """(A [rank, in], B [out, rank] times weight and alpha / rank) of a layer in fp32."""
        a, b = (self._open.get_tensor(self.layers[layer][part]).float() for part in "AB")
        return a, b * self.scale(layer)


class MergedWeights(Weights):
    """Weights with LoRAs merged in fp32: each tensor when it is read."""

    def __init__(
        self, path: Path, network: str, shapes: Shapes, loras: Sequence[LoRATensors], key: str = "model.path"
    ) -> None:
        super().__init__(path, network, shapes, key)
        self._loras = loras

    def _of(self, name: str) -> tuple[str, list[LoRATensors]]:
        layer = name.removesuffix(".weight")
        return layer, [lora for lora in self._loras if name.endswith(".weight") and layer in lora.layers]

    def __getitem__(self, name: str) -> Tensor:
        tensor, (layer, loras) = super().__getitem__(name), self._of(name)
        for lora in loras:
            a, b = lora.factors(layer)
            tensor = tensor.float() + b @ a
        return tensor

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a tensor as it is read: a merged one is fp32."""
        return torch.float32 if self._of(name)[1] else super().dtype(name)
