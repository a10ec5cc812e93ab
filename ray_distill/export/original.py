"""Names of the network's original code, which ComfyUI, LightX2V and Kohya's scripts read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ray_distill import __version__
from ray_distill.export.shards import write_file
from ray_distill.models.lora import LoRA
from ray_distill.models.lora_files import COMFYUI, KOHYA, renamed
from ray_distill.models.spec import Family


def original_name(layer: str, family: Family, remedy: str = "adapt other layers") -> str:
    """The original code's name for diffusers' ``layer``; ValueError with ``remedy`` where the family declares none."""
    return renamed(layer, family.original or {}) or _no_name(layer, remedy)


def original_tensor(name: str, family: Family) -> str:
    """The original code's name for diffusers' tensor ``name``; ValueError where the family declares none."""
    rest = family.original_rest or {}
    return (
        rest.get(f".{name}") or renamed(name, {**(family.original or {}), **rest}) or _no_name(name, "remove the key")
    )


def _no_name(name: str, remedy: str) -> str:
    raise ValueError(f"model.export_formats: {name!r} has no name in the network's original code; {remedy}")


def comfyui_tensors(family: Family, lora: LoRA, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapter ``tensors``, ``LAYER.lora_A.weight`` and ``LAYER.lora_B.weight``, under ComfyUI's names. B is
    multiplied by alpha / rank, and no ``alpha`` is written: without ``alpha`` readers of these files use the factor 1,
    and with it diffusers refuses most layers."""
    factor = (lora.alpha or lora.rank) / lora.rank
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer, side, rest = name.rpartition(".lora_A." if ".lora_A." in name else ".lora_B.")
        scaled = tensor * factor if "lora_B" in side else tensor
        named[f"{COMFYUI}.{original_name(layer, family)}{side}{rest}"] = scaled.contiguous()
    return named


def kohya_tensors(family: Family, lora: LoRA, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapter ``tensors`` under Kohya's names: ``lora_unet_LAYER.lora_down.weight``, ``.lora_up.weight`` and
    ``.alpha``, with underscores for the layer's dots. diffusers reads such a file of Wan if each attention and
    feed-forward layer has an adapter, and no other layer."""
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer, side, rest = name.rpartition(".lora_A." if ".lora_A." in name else ".lora_B.")
        flat = f"{KOHYA}_{original_name(layer, family).replace('.', '_')}"
        named[f"{flat}.{'lora_up' if 'lora_B' in side else 'lora_down'}.{rest}"] = tensor.contiguous()
        named[f"{flat}.alpha"] = torch.tensor(float(lora.alpha or lora.rank))
    return named


ADAPTERS = {"comfyui_lora": comfyui_tensors, "kohya_lora": kohya_tensors}
DTYPES = {
    "original_float32": torch.float32,
    "original_bfloat16": torch.bfloat16,
    "original_float8": torch.float8_e4m3fn,
}


def file_name(kind: str, second: bool) -> str:
    """The name of an export's file of format ``kind``; ``second``: of the expert of low noise."""
    return f"{kind}{'_2' * second}.safetensors"


def save_adapter(path: Path, kind: str, family: Family, lora: LoRA, tensors: Mapping[str, Tensor]) -> None:
    """Write the adapter as one file of format ``kind``, comfyui_lora or kohya_lora, with its rank and alpha as metadata
    by Kohya's names."""
    facts = {"ss_network_dim": lora.rank, "ss_network_alpha": lora.alpha or lora.rank, "family": family.name}
    metadata = {"format": "pt", "software": f"ray_distill {__version__}"} | {k: str(v) for k, v in facts.items()}
    with torch.no_grad():
        save_file(ADAPTERS[kind](family, lora, tensors), path, metadata)
    settle(path)


def settle(path: Path) -> None:
    """Put the metadata of a file of safetensors' in the order of its keys, and give it the rights of its folder: it is
    written in an order that changes from file to file, and for its owner alone. Equal weights are then equal files."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        assert len(text) == size, f"{path}: a header of {len(text)} bytes in the place of {size}"
        file.seek(8)
        file.write(text)
    path.chmod(path.parent.stat().st_mode & 0o666)


def save_original(
    path: Path, kind: str, family: Family, network: nn.Module, tensors: Mapping[str, Tensor] | None
) -> None:
    """Write the whole network as one file of format ``kind``, original_float32, original_bfloat16 or original_float8,
    one tensor at a time. ``tensors`` has the weights where the network is an outline.

    ValueError for a tensor without a name, and for a weight beyond float8's range, which would be cut.
    """
    weights = network.state_dict()
    names = {name: original_tensor(name, family) for name in weights}
    outline = {name: each.to("meta", _dtype(kind, name, each)) for name, each in weights.items()}
    write_file(path, outline, weights if tensors is None else tensors, names)


def _dtype(kind: str, name: str, like: Tensor) -> torch.dtype:
    dtype = DTYPES[kind]
    is_matrix = name.startswith("blocks.") and name.endswith(".weight") and like.ndim == 2
    return dtype if dtype != torch.float8_e4m3fn or is_matrix else torch.bfloat16
