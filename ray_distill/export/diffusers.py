"""Write a student as a folder for diffusers: transformer, scheduler, recipe, sample.py, model card."""

from __future__ import annotations

import inspect
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, NotRequired, TypedDict, Unpack

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler, SchedulerMixin
from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.schedulers.scheduling_utils import SCHEDULER_CONFIG_NAME

from ray_distill.export.base import check_index
from ray_distill.export.card import ADAPTER, LOW_ADAPTER, SAMPLES, model_card
from ray_distill.export.checks import RECIPE, check_place, check_recipe
from ray_distill.export.original import ADAPTERS, file_name, save_adapter, save_original, settle
from ray_distill.export.shards import save_network
from ray_distill.models import families, family_of
from ray_distill.models.lora import LoRA
from ray_distill.models.pipeline import Pipeline
from ray_distill.models.places import FIRST
from ray_distill.models.spec import Export, Family, Latent
from ray_distill.secrets import mask
from ray_distill.types import Sampler

WORKFLOW = "comfyui_workflow.json"
STEPS = "_student_timesteps"
VERSION = 1  # of recipe.json
Adapter = tuple[LoRA, Mapping[str, torch.Tensor]]
"""(settings of an adapter, its tensors by plain name)"""
SCHEDULERS = {"sde": FlowMatchLCMScheduler, "ode": FlowMatchEulerDiscreteScheduler}


class Clips(TypedDict):
    """Values of the recipe: the clips that an export samples, and how its prompts are encoded."""

    frames: int
    height: int
    width: int
    fps: float
    max_sequence_length: int
    negative_prompt: NotRequired[str]
    from_image: NotRequired[bool]
    """True: the student makes videos from a picture and a prompt, and is exported for the pipeline that does."""
    vae_tiling: NotRequired[bool]
    """True: sample.py encodes pictures and decodes videos by diffusers' overlapping tiles."""


def export_student(
    folder: Path,
    transformer: torch.nn.Module,
    base: Path | str,
    sampler: Sampler,
    latent_shape: Latent,
    *,
    card: Mapping[str, Any],
    adapter: Adapter | None = None,
    low: torch.nn.Module | None = None,
    low_adapter: Adapter | None = None,
    tensors: Mapping[str, Mapping[str, torch.Tensor] | None] = MappingProxyType({}),
    formats: Sequence[str] = (),
    **clips: Unpack[Clips],
) -> Path:
    """Write ``folder``: transformer/, scheduler/, recipe.json, sample.py and README.md; returns ``folder``.

    ``transformer`` is a family's network with the student's weights, saved in its own dtype; ``low`` is the expert of
    low noise of a recipe with two experts. Where ``tensors`` has "transformer" or "transformer_2", that network is an
    outline on the meta device, and its weights come from there. ``base`` is the teacher's pipeline: a folder, or a name
    on the hub. ``latent_shape`` is (C, t, h, w). ``adapter`` and ``low_adapter`` are already merged; they are written
    as well, for ``load_lora_weights``. ``formats`` are further files, as in ``model.export_formats``.

    The folder appears whole or not at all: an earlier export stays until the new one is complete. ValueError for a
    recipe or a base that the pipeline cannot replay, and for a ``folder`` with other content; TypeError for a network
    of no family.
    """
    family, folder = _family(transformer, low), Path(folder).resolve()
    from_image = clips.get("from_image", False)
    export = family.image_export if from_image and family.image_export else family.export
    _check(folder, base, family, sampler, export, low)
    scheduler = export.scheduler(transformer) if export.scheduler else SCHEDULERS[sampler.kind](shift=1.0)
    recipe = recipe_of(folder, base, sampler, latent_shape, clips) | {"scheduler": type(scheduler).__name__}
    adapters = {name: each for name, each in ((ADAPTER, adapter), (LOW_ADAPTER, low_adapter)) if each is not None}
    ranks = {name: lora.rank for name, (lora, _) in adapters.items()}
    with _replacing(folder) as fresh:
        own = _settings(base, family, export.pipeline)
        _save_networks(fresh, transformer, low, sampler, export.pipeline, scheduler, tensors, own)
        _name_steps(fresh / "scheduler" / SCHEDULER_CONFIG_NAME, sampler)
        _save_adapters(fresh, adapters)
        files = _save_formats(fresh, formats, family, (transformer, low), tensors, adapters)
        (fresh / RECIPE).write_text(json.dumps(recipe, indent=2) + "\n")
        copy_script(fresh, sampler, export)
        played = _save_workflow(fresh, Pipeline(family.name, Path(base), "base"), transformer, recipe, files)
        text = model_card(recipe, sampler, card, Path(base).is_dir(), ranks, export, files, played)
        (fresh / "README.md").write_text(mask(text))
        for video in card.get("samples", ()):
            (fresh / SAMPLES).mkdir(exist_ok=True)
            shutil.copy(video, fresh / SAMPLES)
    return folder


def _family(*networks: torch.nn.Module | None) -> Family:
    """The family of the first network; TypeError where one of the ``networks`` belongs to no family."""
    for module in networks:
        if module is not None and family_of(type(module).__name__) is None:
            names = " or ".join(each.transformer_name for each in families())
            raise TypeError(f"transformer is a {type(module).__name__}: give the {names} that it wraps")
    family = family_of(type(networks[0]).__name__)
    assert family is not None
    return family


def _check(
    folder: Path, base: Path | str, family: Family, sampler: Sampler, export: Export, low: torch.nn.Module | None
) -> None:
    """ValueError for a recipe that the pipeline cannot replay, a folder with other content, or a base that does not
    fit."""
    check_recipe(sampler, export)
    check_place(folder)
    if Path(base).is_dir():
        pipeline = Pipeline(family.name, Path(base), "base")
        check_index(pipeline.where, pipeline.index, experts=sampler.experts is not None)
    if (low is None) != (sampler.experts is None):
        raise ValueError("a recipe of two experts needs two networks, and any other recipe needs one")


def recipe_of(folder: Path, base: Path | str, sampler: Sampler, latent_shape: Latent, clips: Clips) -> dict[str, Any]:
    """The content of recipe.json, from which sample.py takes all settings. A base on this machine becomes a path
    relative to ``folder``."""
    return {
        "version": VERSION,
        "base": os.path.relpath(Path(base).resolve(), folder) if Path(base).is_dir() else str(base),
        "kind": sampler.kind,
        "timesteps": list(sampler.timesteps),
        "guidance_scale": sampler.guidance_scale,
        "chunks": None if sampler.chunks is None else asdict(sampler.chunks),
        "boundary_ratio": sampler.experts and sampler.experts.boundary / 1000,
        "negative_prompt": clips.get("negative_prompt", ""),
        "max_sequence_length": clips["max_sequence_length"],
        "latent_shape": list(latent_shape),
        "frames": clips["frames"],
        "height": clips["height"],
        "width": clips["width"],
        "fps": clips["fps"],
        "from_image": clips.get("from_image", False),
        "vae_tiling": clips.get("vae_tiling", False),
    } | ({} if sampler.audio_guidance_scale is None else {"audio_guidance_scale": sampler.audio_guidance_scale})


def _settings(base: Path | str, family: Family, pipeline: str) -> dict[str, Any]:
    """The settings of the base's model_index.json that ``pipeline`` takes, such as expand_timesteps: no parts."""
    takes = inspect.signature(getattr(diffusers, pipeline).__init__).parameters
    index = Pipeline(family.name, Path(base), "base").settings
    return {name: value for name, value in index.items() if name in takes and not isinstance(value, list)}


def _save_networks(
    folder: Path,
    transformer: torch.nn.Module,
    low: torch.nn.Module | None,
    sampler: Sampler,
    pipeline: str,
    scheduler: SchedulerMixin,
    tensors: Mapping[str, Mapping[str, torch.Tensor] | None],
    settings: Mapping[str, Any],
) -> None:
    networks = {"transformer": transformer} | ({} if low is None else {"transformer_2": low})
    for name, network in networks.items():
        save_network(folder / name, network, tensors.get(name))
    scheduler.save_pretrained(folder / "scheduler")
    if sampler.experts is not None:
        rest = dict.fromkeys(("tokenizer", "text_encoder", "vae"))
        own = {**settings, "boundary_ratio": sampler.experts.boundary / 1000}
        whole = getattr(diffusers, pipeline)(**networks, **rest, scheduler=scheduler, **own)
        whole.save_config(folder)


def _name_steps(path: Path, sampler: Sampler) -> None:
    """Write the recipe's timesteps into the scheduler's configuration. No key of diffusers' holds them; it passes over
    a name with an underscore in silence, so the file tells its reader."""
    document = json.loads(path.read_text()) | {STEPS: list(sampler.timesteps)}
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")


def _save_adapters(folder: Path, adapters: Mapping[str, Adapter]) -> None:
    """Write each adapter under its file name, with peft's metadata, as pipelines' ``save_lora_weights`` does; also for
    a pipeline without that method, whose transformer reads the file."""
    for name, (lora, parts) in adapters.items():
        LoraBaseMixin.write_lora_layers(
            LoraBaseMixin.pack_weights(dict(parts), FIRST),
            str(folder),
            is_main_process=True,
            weight_name=name,
            save_function=None,
            safe_serialization=True,
            lora_adapter_metadata=LoraBaseMixin.pack_weights(lora.peft(), FIRST),
        )
        settle(folder / name)


def _save_formats(
    folder: Path,
    formats: Sequence[str],
    family: Family,
    networks: tuple[torch.nn.Module, torch.nn.Module | None],
    tensors: Mapping[str, Mapping[str, torch.Tensor] | None],
    adapters: Mapping[str, Adapter],
) -> dict[str, list[str]]:
    """Write the files of ``formats``; returns their names by format."""
    files: dict[str, list[str]] = {}
    for kind in formats:
        if kind in ADAPTERS:
            for name, (lora, parts) in adapters.items():
                files.setdefault(kind, []).append(file_name(kind, name == LOW_ADAPTER))
                save_adapter(folder / files[kind][-1], kind, family, lora, parts)
            continue
        for name, network in zip(("transformer", "transformer_2"), networks, strict=True):
            if network is not None:
                files.setdefault(kind, []).append(file_name(kind, network is not networks[0]))
                save_original(folder / files[kind][-1], kind, family, network, tensors.get(name))
    return files


def _save_workflow(
    folder: Path, base: Pipeline, network: Any, recipe: Mapping[str, Any], files: Mapping[str, Sequence[str]]
) -> str | None:
    """Write the workflow for ComfyUI beside ``files``; returns the reason where there is none, "" where it is written,
    and None where the family has no workflows or no file was asked for."""
    if base.of.workflow is None or not files:
        return None
    graph = base.of.workflow(base, network.config, recipe, files)
    if isinstance(graph, str):
        return graph
    (folder / WORKFLOW).write_text(json.dumps(graph, indent=2) + "\n")
    return ""


def copy_script(folder: Path, sampler: Sampler, export: Export) -> None:
    """Copy sample.py and the files that it imports."""
    script, beside = (export.script, {}) if sampler.chunks is None else export.causal or (None, {})
    for name, path in {"sample.py": script, **beside}.items():
        assert path is not None, "check_recipe refuses chunks where no script samples them"
        shutil.copyfile(path, folder / name)


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder that replaces ``folder`` when the block ends, and is removed where the block fails."""
    fresh = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        yield fresh
        _swap(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _swap(fresh: Path, folder: Path) -> None:
    """Replace ``folder`` by ``fresh``. Between the two renames the old export lies beside them, so that it is never
    lost."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    if folder.exists():
        folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
