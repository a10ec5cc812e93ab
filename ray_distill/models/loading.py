"""Load transformers from pipeline folders and single files; check them first, without a GPU or a cluster."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ray_distill.models import family as adapter
from ray_distill.models.lora_files import LoRAFile, LoRATensors, MergedWeights
from ray_distill.models.outlines import Shapes, remembered, shapes_of
from ray_distill.models.parts import outline, read_config
from ray_distill.models.places import SECOND, transformer_folder
from ray_distill.models.spec import Config, Family, Fields
from ray_distill.models.weights import Weights

CONFIG = "config.json"
NATIVE = "native"
"""diffusers' name for torch's own attention, the default backend."""

WITHOUT_MASKS = {
    *("flash", "flash_hub", "flash_4_hub", "_flash_3", "_flash_3_hub", "aiter_fa2_hub", "_native_flash", "_native_xla"),
    *("sage", "sage_hub", "sage_blackwell_hub", "_sage_qk_int8_pv_fp8_cuda", "_sage_qk_int8_pv_fp8_cuda_sm90"),
    *("_sage_qk_int8_pv_fp16_cuda", "_sage_qk_int8_pv_fp16_triton"),
}
"""Backends of diffusers that raise an error for a mask of attention."""


def check_folder(family: str, folder: Path, key: str = "model.path") -> dict[str, Any]:
    """The transformer's configuration in a pipeline's ``folder``. For a single file it is the config.json beside the
    file, else the published configuration with the same tensors. ValueError names a missing file, or a file of another
    family."""
    path = folder.with_name(CONFIG) if folder.is_file() else transformer_folder(folder) / CONFIG
    if folder.is_file() and not path.is_file():
        return _published_config(family, folder, key)
    if not path.is_file():
        missing = path.relative_to(folder if folder.name != SECOND else folder.parent)
        raise ValueError(f"{key} = {folder}: no {missing} there. Give a pipeline folder in diffusers format")
    config = read_config(path, f"{key} = {folder}")
    expected = adapter(family).transformer_name
    if config.get("_class_name") != expected:
        raise ValueError(
            f"{key} = {folder}: its transformer is a {config.get('_class_name')}, but family {family!r} is a {expected}"
        )
    return config


def published_configs(family: Family) -> dict[str, Any]:
    """The configurations of the family's published pipelines, by their names on the hub and then by part."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(family.published_folder.glob("*.json"))}


def _published_config(family: str, file: Path, key: str) -> dict[str, Any]:
    name = adapter(family).transformer_name
    configurations = published_configs(adapter(family))
    for parts in configurations.values():
        config: dict[str, Any] = parts["transformer"]
        if Weights(file, name, _outline(family, config), key).fit:
            return config
    raise ValueError(
        f"{key} = {file}: its tensors fit no published {name} "
        f"({', '.join(configurations) or 'none is known'}); put the transformer's {CONFIG} beside the file"
    )


def check_weights(family: str, folder: Path, key: str = "model.path") -> None:
    """ValueError where files are missing, or hold other tensors than the configuration says; only headers are read."""
    shapes = _outline(family, check_folder(family, folder, key), f"{key} = {folder}")
    Weights(folder, adapter(family).transformer_name, shapes, key).check()


def check_loras(family: str, folder: Path, loras: Sequence[LoRAFile]) -> None:
    """ValueError for a file of ``loras`` that cannot be merged into the transformer of ``folder``; only headers are
    read."""
    network = empty_transformer(family, folder)
    for lora in loras:
        LoRATensors(lora, network, adapter(family))


def patch(family: str, folder: Path) -> tuple[int, int]:
    """(rows, columns) of latents that the transformer in ``folder`` takes as one token."""
    rows_and_columns: tuple[int, int] = adapter(family).patch(check_folder(family, folder))
    return rows_and_columns


def load_transformer(
    family: str, folder: Path, dtype: torch.dtype = torch.float32, loras: Sequence[LoRAFile] = ()
) -> nn.Module:
    """Load the family's transformer with the weights of ``folder``/transformer, or of a single safetensors file, and
    ``loras`` merged into them."""
    network, weights = hollow_transformer(family, folder, dtype, loras)
    for owner, last, name, parameter in own_parameters(network):
        setattr(owner, last, nn.Parameter(weights[name].to(parameter.dtype, copy=True)))
    return network.eval()


def hollow_transformer(
    family: str, folder: Path, dtype: torch.dtype, loras: Sequence[LoRAFile] = ()
) -> tuple[nn.Module, Weights]:
    """(the architecture with its parameters on the meta device and its buffers as they are, the weights for it with
    ``loras`` merged into them). Parts that diffusers keeps in fp32 stay fp32, others have ``dtype``. ValueError as in
    :func:`check_weights` and :func:`check_loras`."""
    network = _hollow(family, check_folder(family, folder))
    adapters = [LoRATensors(lora, network, adapter(family)) for lora in loras]
    name, shapes = type(network).__name__, shapes_of(network.named_parameters())
    weights = MergedWeights(folder, name, shapes, adapters) if adapters else Weights(folder, name, shapes)
    weights.check()
    return cast(network, dtype), weights


def _hollow(family: str, config: dict[str, Any]) -> nn.Module:
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        network: nn.Module = adapter(family).transformer.from_config(config)
    return network


def cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast the parameters of ``network`` to ``dtype``, without gradients; parts that diffusers keeps in fp32 stay
    fp32."""
    fp32_parts = set(getattr(network, "_keep_in_fp32_modules", None) or ())
    for owner, last, name, parameter in own_parameters(network):
        if not fp32_parts & set(name.split(".")):
            setattr(owner, last, nn.Parameter(parameter.detach().to(dtype)))
    return network


def own_parameters(network: nn.Module) -> list[tuple[nn.Module, str, str, nn.Parameter]]:
    """(module, name of the parameter in the module, its full name, the parameter); inner modules come before outer
    ones."""
    modules = list(network.named_modules())
    return [
        (module, last, f"{prefix}.{last}".removeprefix("."), parameter)
        for prefix, module in reversed(modules)
        for last, parameter in module.named_parameters(recurse=False)
    ]


def random_transformer(family: str, folder: Path, seed: int) -> nn.Module:
    """The architecture of ``folder``/transformer with new weights drawn from ``seed``."""
    config = check_folder(family, folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = adapter(family).transformer.from_config(config)
    return model


class RandomWeights:
    """The weights of :func:`random_transformer` by name; they are drawn, all at once, when the first is read."""

    def __init__(self, family: str, folder: Path, seed: int) -> None:
        self._drawn_from = family, folder, seed

    def __getitem__(self, name: str) -> Tensor:
        return self._drawn[name]

    def dtype(self, name: str) -> torch.dtype:
        return torch.float32

    @cached_property
    def _drawn(self) -> dict[str, Tensor]:
        return {
            name: parameter.detach() for name, parameter in random_transformer(*self._drawn_from).named_parameters()
        }


def hollow_random(family: str, folder: Path, dtype: torch.dtype, seed: int) -> tuple[nn.Module, RandomWeights]:
    """:func:`hollow_transformer` with new weights drawn from ``seed``."""
    return cast(_hollow(family, check_folder(family, folder)), dtype), RandomWeights(family, folder, seed)


def empty_transformer(family: str, folder: Path, key: str = "model.path") -> nn.Module:
    """The architecture of ``folder``/transformer on the meta device: names and shapes without memory."""
    return _empty(family, check_folder(family, folder, key), f"{key} = {folder}")


def _empty(family: str, config: dict[str, Any], what: str) -> nn.Module:
    network: nn.Module = outline(adapter(family).transformer.from_config, config, what)
    return network


def with_class_defaults(family: str, config: Config, where: str) -> Mapping[str, Any]:
    """A transformer's ``config`` with the defaults of its class for keys that it lacks; ``where`` is for messages."""
    network: Any = _empty(family, dict(config), where)
    described: Mapping[str, Any] = network.config
    return described


def _outline(family: str, config: dict[str, Any], what: str = "a published transformer") -> Shapes:
    place = adapter(family).transformer_place
    return remembered(place, config, lambda: shapes_of(_empty(family, config, what).named_parameters()))


def check_attention(backend: str, key: str = "model.attention") -> None:
    """ValueError, with the names that diffusers knows, for an unknown attention backend."""
    if backend == NATIVE:
        return
    from diffusers.models.attention_dispatch import AttentionBackendName  # takes seconds, and encoders need none of it

    backends = sorted(name.value for name in AttentionBackendName)
    if backend not in backends:
        raise ValueError(f"{key} = {backend!r}: diffusers has no such backend; it has {', '.join(backends)}")


def check_masks(backend: str, fields: Fields, key: str) -> None:
    """ValueError for a ``backend`` that takes no mask, where one of a network's ``fields`` has one."""
    if backend in WITHOUT_MASKS and (names := [name for name, field in fields.items() if field.padding == "mask"]):
        raise ValueError(
            f"{key} = {backend!r}: the network takes a mask of its {names[0]}, and this backend takes none; remove "
            "it, or use _native_cudnn or _native_efficient"
        )


def check_blocks(network: nn.Module, backend: str, compiled: bool, key: str) -> None:
    """ValueError where diffusers names no repeated blocks to compile, or where no layer of ``network``, which may be on
    the meta device, reads the ``backend``: diffusers would set it without effect. ``key`` is the role's section."""
    name = type(network).__name__
    if compiled and not getattr(network, "_repeated_blocks", None):
        raise ValueError(f"{key}.compile = true: diffusers compiles no blocks of a {name}; remove it")
    processors = [module.processor for module in network.modules() if hasattr(module, "processor")]
    if backend != NATIVE and not any(hasattr(p, "_attention_backend") for p in processors):
        raise ValueError(
            f"model.attention = {backend!r}: the attention of a {name} reads no backend; remove it, and "
            f"{key}.attention where it is set"
        )


def use_attention(module: nn.Module, backend: str, always: bool = False) -> None:
    """Set the attention backend of ``module``; diffusers' own error where its package, or a GPU for it, is missing.

    With ``always`` the native backend is set as well, for runs whose networks differ: diffusers gives the last backend
    that any network chose to every network without a choice.
    """
    if always or backend != NATIVE:
        module.set_attention_backend(backend)  # type: ignore[operator]


VERSIONS = 64
"""Most compiled versions of a block. Trained and frozen networks, calls with and without gradient, single and doubled
(guidance) batches, and clips of one latent frame each need their own version; beyond Dynamo's own limit of 8 it would
run a block uncompiled, with one line in the log."""


def compile_blocks(module: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile each repeated block in place (torch.compile). Equal blocks share their code; a second shape makes the
    code general, so that a third shape compiles nothing."""
    config = torch._dynamo.config  # per process: all networks of a worker share their blocks' code
    config.recompile_limit = max(config.recompile_limit, VERSIONS)
    module.compile_repeated_blocks(backend=backend)  # type: ignore[operator]
