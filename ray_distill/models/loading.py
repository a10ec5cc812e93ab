"""Weights from a diffusers folder, checked before anything starts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName
from torch import nn

from ray_distill.models import family as adapter

CONFIG = "config.json"


def check_folder(family: str, folder: Path, key: str = "model.path") -> dict[str, Any]:
    """The transformer's configuration in ``folder``; ValueError names what is missing or of another family."""
    path = folder / "transformer" / CONFIG
    if not path.is_file():
        raise ValueError(f"{key} = {folder}: no transformer/{CONFIG} there. Give a pipeline folder in diffusers format")
    config: dict[str, Any] = json.loads(path.read_text())
    wanted = adapter(family).transformer.__name__
    if config.get("_class_name") != wanted:
        raise ValueError(
            f"{key} = {folder}: its transformer is a {config.get('_class_name')}, but family {family!r} is a {wanted}"
        )
    return config


def patch(family: str, folder: Path) -> tuple[int, int]:
    """Rows and columns of latents that the transformer in ``folder`` takes as one token."""
    found: tuple[int, int] = adapter(family).patch(check_folder(family, folder))
    return found


def load_transformer(family: str, folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The family's transformer with the weights of ``folder``/transformer (safetensors only)."""
    check_folder(family, folder)
    cls = adapter(family).transformer
    model: nn.Module = cls.from_pretrained(folder, subfolder="transformer", torch_dtype=dtype, use_safetensors=True)
    return model


def random_transformer(family: str, folder: Path, seed: int) -> nn.Module:
    """The architecture of ``folder``/transformer with fresh weights drawn from ``seed``."""
    config = check_folder(family, folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = adapter(family).transformer.from_config(config)
    return model


def empty_transformer(family: str, folder: Path) -> nn.Module:
    """The architecture of ``folder``/transformer on the meta device: names and shapes without memory."""
    config = check_folder(family, folder)
    with torch.device("meta"):
        model: nn.Module = adapter(family).transformer.from_config(config)
    return model


def check_attention(backend: str) -> None:
    """ValueError, with the names that diffusers knows, for an attention backend that is none of them."""
    known = sorted(name.value for name in AttentionBackendName)
    if backend not in known:
        raise ValueError(f"model.attention = {backend!r}: diffusers has no such backend; it has {', '.join(known)}")


def use_attention(module: nn.Module, backend: str) -> None:
    """Attend by ``backend``; diffusers' own error where its package, or a GPU for it, is missing."""
    if backend != AttentionBackendName.NATIVE.value:
        module.set_attention_backend(backend)  # type: ignore[operator]


def folder_hash(folder: Path) -> str:
    """sha256 over the names, sizes and contents of a folder's files; of large files the first and last MiB."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)}{size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()
