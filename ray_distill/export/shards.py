"""Write a network's safetensors in shards, with only one tensor in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor, nn

from ray_distill.models.weights import INDEX

PATTERN = "diffusion_pytorch_model{suffix}.safetensors"  # the names that diffusers looks for
SHARD_BYTES = 10 * 10**9
LARGEST = torch.finfo(torch.float8_e4m3fn).max
NO_NAMES: Mapping[str, str] = MappingProxyType({})
NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
}
"""safetensors' names of dtypes."""


def save_network(
    folder: Path, network: nn.Module, tensors: Mapping[str, Tensor] | None, most: int = SHARD_BYTES
) -> None:
    """Save ``network``, of a diffusers class, as ``from_pretrained`` reads it; a shard has at most ``most`` bytes.

    With ``tensors`` the network is an outline on the meta device, which defines their order, shapes and dtypes."""
    if tensors is None:
        network.save_pretrained(folder, safe_serialization=True)  # type: ignore[operator]
        return
    network.save_config(folder)  # type: ignore[operator]
    outline = network.state_dict()
    plan = split_torch_state_dict_into_shards(outline, filename_pattern=PATTERN, max_shard_size=most)
    for file, names in plan.filename_to_tensors.items():
        write_file(folder / file, {name: outline[name] for name in names}, tensors)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def write_file(
    path: Path, outline: Mapping[str, Tensor], tensors: Mapping[str, Tensor], names: Mapping[str, str] = NO_NAMES
) -> None:
    """Write the ``tensors`` of ``outline``, in its dtypes and under ``names`` where they have one, as one safetensors
    file: the header's length in 8 bytes, the header as JSON, then the tensors end to end."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, like in outline.items():
        start, end = end, end + like.nbytes
        entry = {"dtype": NAMES[like.dtype], "shape": list(like.shape), "data_offsets": [start, end]}
        header[names.get(name, name)] = entry
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, like in outline.items():
            file.write(_bytes(name, tensors[name], like))


def _bytes(name: str, tensor: Tensor, outline: Tensor) -> memoryview:
    """``tensor`` in the dtype of its ``outline``; ValueError for a weight beyond float8's range, which would be cut."""
    if outline.dtype == torch.float8_e4m3fn and (largest := tensor.abs().max().item()) > LARGEST:
        raise ValueError(f"{name} has a weight of {largest:g}, and float8 ends at {LARGEST:g}; write bfloat16")
    assert tensor.shape == outline.shape, f"{list(tensor.shape)} in the place of {list(outline.shape)}"
    return tensor.to(outline.dtype).contiguous().reshape(-1).view(torch.uint8).numpy().data
