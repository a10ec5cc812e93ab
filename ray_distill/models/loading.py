"""Load transformers from pipeline folders and single files, checked before anything starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.models.attention_dispatch import AttentionBackendName
from torch import nn

from ray_distill.models import family as adapter
from ray_distill.models.parts import outline, read_config
from ray_distill.models.spec import Family
from ray_distill.models.weights import Weights

CONFIG = "config.json"


def check_folder(family: str, folder: Path, key: str = "model.path") -> dict[str, Any]:
    """The transformer's configuration in ``folder``, or that of a single file: the config.json beside it, else the
    published one that has its tensors. ValueError names what is missing or of another family."""
    path = folder.with_name(CONFIG) if folder.is_file() else folder / "transformer" / CONFIG
    if folder.is_file() and not path.is_file():
        return _published(family, folder, key)
    if not path.is_file():
        raise ValueError(f"{key} = {folder}: no transformer/{CONFIG} there. Give a pipeline folder in diffusers format")
    config = read_config(path, f"{key} = {folder}")
    wanted = adapter(family).transformer.__name__
    if config.get("_class_name") != wanted:
        raise ValueError(
            f"{key} = {folder}: its transformer is a {config.get('_class_name')}, but family {family!r} is a {wanted}"
        )
    return config


def published(family: Family) -> dict[str, Any]:
    """The configurations of the family's published pipelines, by their names on the hub and then by part."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(family.published.glob("*.json"))}


def _published(family: str, file: Path, key: str) -> dict[str, Any]:
    name = adapter(family).transformer.__name__
    known = published(adapter(family))
    for described in known.values():
        config: dict[str, Any] = described["transformer"]
        if Weights(file, _empty(family, config), key).fit:
            return config
    raise ValueError(
        f"{key} = {file}: its tensors are those of no published {name} ({', '.join(known) or 'none is known'}); put "
        f"the transformer's {CONFIG} beside the file"
    )


def check_weights(family: str, folder: Path, key: str = "model.path") -> None:
    """ValueError where files are missing, or hold other tensors than the configuration says; reads headers alone."""
    Weights(folder, empty_transformer(family, folder, key), key).check()


def patch(family: str, folder: Path) -> tuple[int, int]:
    """Rows and columns of latents that the transformer in ``folder`` takes as one token."""
    found: tuple[int, int] = adapter(family).patch(check_folder(family, folder))
    return found


def load_transformer(family: str, folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The family's transformer with the weights of ``folder``/transformer, or of the single file (safetensors only)."""
    network, weights = hollow_transformer(family, folder, dtype)
    for owner, last, name, parameter in own_parameters(network):
        setattr(owner, last, nn.Parameter(weights[name].to(parameter.dtype, copy=True)))
    return network.eval()


def hollow_transformer(family: str, folder: Path, dtype: torch.dtype) -> tuple[nn.Module, Weights]:
    """The architecture with its parameters on the meta device and its buffers as they are, and the weights that belong
    there. Parts that diffusers keeps in fp32 are so, others in ``dtype``. ValueError as in :func:`check_weights`."""
    config = check_folder(family, folder)
    with init_empty_weights(include_buffers=False):
        network: nn.Module = adapter(family).transformer.from_config(config)
    weights = Weights(folder, network)
    weights.check()
    kept = set(getattr(network, "_keep_in_fp32_modules", None) or ())
    for owner, last, name, parameter in own_parameters(network):
        if not kept & set(name.split(".")):
            setattr(owner, last, nn.Parameter(parameter.to(dtype)))
    return network, weights


def own_parameters(network: nn.Module) -> list[tuple[nn.Module, str, str, nn.Parameter]]:
    """(module, the parameter's name in it, its whole name, itself), those of parts before those of what they are in."""
    modules = list(network.named_modules())
    return [
        (module, last, f"{prefix}.{last}".removeprefix("."), parameter)
        for prefix, module in reversed(modules)
        for last, parameter in module.named_parameters(recurse=False)
    ]


def random_transformer(family: str, folder: Path, seed: int) -> nn.Module:
    """The architecture of ``folder``/transformer with fresh weights drawn from ``seed``."""
    config = check_folder(family, folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = adapter(family).transformer.from_config(config)
    return model


def empty_transformer(family: str, folder: Path, key: str = "model.path") -> nn.Module:
    """The architecture of ``folder``/transformer on the meta device: names and shapes without memory."""
    return _empty(family, check_folder(family, folder, key), f"{key} = {folder}")


def _empty(family: str, config: dict[str, Any], what: str = "a published transformer") -> nn.Module:
    network: nn.Module = outline(adapter(family).transformer.from_config, config, what)
    return network


def check_attention(backend: str, key: str = "model.attention") -> None:
    """ValueError, with the names that diffusers knows, for an attention backend that is none of them."""
    known = sorted(name.value for name in AttentionBackendName)
    if backend not in known:
        raise ValueError(f"{key} = {backend!r}: diffusers has no such backend; it has {', '.join(known)}")


def use_attention(module: nn.Module, backend: str, always: bool = False) -> None:
    """Attend by ``backend``; diffusers' own error where its package, or a GPU for it, is missing.

    ``always``: where networks differ, native is said, too. diffusers keeps the last backend that any network was given,
    and a network without one takes that."""
    if always or backend != AttentionBackendName.NATIVE.value:
        module.set_attention_backend(backend)  # type: ignore[operator]


def compile_blocks(module: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """torch.compile of each repeated block, where it stands: equal blocks share their code, and a second shape makes it
    general in place of compiling it anew for each."""
    module.compile_repeated_blocks(backend=backend)  # type: ignore[operator]
