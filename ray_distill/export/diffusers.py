"""Write a student as a folder for diffusers: transformer, scheduler, recipe, sample.py, model card."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler
from huggingface_hub import ModelCardData

from ray_distill.config.secrets import mask
from ray_distill.evaluate.report import table
from ray_distill.export.base import check_index
from ray_distill.export.shards import save_network
from ray_distill.models import families, family_of
from ray_distill.models.lora import LoRA
from ray_distill.models.pipeline import Pipeline
from ray_distill.models.spec import Export, Latent
from ray_distill.types import Sampler

RECIPE = "recipe.json"
ADAPTER = "pytorch_lora_weights.safetensors"  # the name that diffusers looks for
LOW_ADAPTER = "pytorch_lora_weights_2.safetensors"
VERSION = 1  # of recipe.json
SCHEDULERS = {"sde": FlowMatchLCMScheduler, "ode": FlowMatchEulerDiscreteScheduler}


def export_student(
    folder: Path,
    transformer: torch.nn.Module,
    base: Path | str,
    sampler: Sampler,
    latent_shape: Latent,
    *,
    frames: int,
    height: int,
    width: int,
    fps: float,
    max_sequence_length: int,
    card: Mapping[str, Any],
    negative_prompt: str = "",
    adapter: tuple[LoRA, Mapping[str, torch.Tensor]] | None = None,
    low: torch.nn.Module | None = None,
    from_image: bool = False,
    low_adapter: tuple[LoRA, Mapping[str, torch.Tensor]] | None = None,
    tensors: Mapping[str, Mapping[str, torch.Tensor] | None] = MappingProxyType({}),
) -> Path:
    """Write ``folder``: transformer/, scheduler/, recipe.json, sample.py and README.md; returns ``folder``.

    ``transformer`` is a family's, with the student's weights, and is saved in its own dtype; so is ``low``.
    Where ``tensors`` has those of "transformer" or "transformer_2" by name, that network is an outline of them.
    ``base`` is the teacher's pipeline folder, kept as a path relative to ``folder``, or a name on the hub: text
    encoder and VAE come from there. ``latent_shape`` is (C, t, h, w). ``card`` may hold ``title``, ``method``,
    ``report`` (an evaluation's, shown as a table) and further values that are listed as they are. ``adapter``, where
    the student was trained as one, is what ``transformer`` has merged already, by plain name; it is written, too, as
    pytorch_lora_weights.safetensors for the pipeline's ``load_lora_weights``. ``low`` is the expert of low noise of a
    recipe with two: the folder is then a WanPipeline with transformer_2 and boundary_ratio, but for text and VAE.
    ``from_image``: the student makes videos of a picture and a prompt, and leaves with the pipeline that does.
    ``low_adapter`` is its adapter, for ``load_lora_weights(..., load_into_transformer_2=True)``.

    The folder appears whole or not at all: an export that is already there stays until the new one is complete.
    ValueError for a recipe or a base that WanPipeline cannot replay, and for a ``folder`` that holds something else;
    TypeError for another transformer.
    """
    for module in (transformer, low):
        if module is not None and family_of(type(module).__name__) is None:
            known = " or ".join(each.transformer.__name__ for each in families())
            raise TypeError(f"transformer is a {type(module).__name__}: give the plain {known} inside it")
    family = family_of(type(transformer).__name__)
    assert family is not None
    folder = Path(folder).resolve()
    export = family.image_export if from_image and family.image_export else family.export
    check_recipe(sampler, export)
    check_place(folder)
    if Path(base).is_dir():
        check_index(Pipeline(family.name, Path(base), "base"), experts=sampler.experts is not None)
    if (low is None) != (sampler.experts is None):
        raise ValueError("two networks leave together with a recipe of two experts, and only so")
    local = Path(base).is_dir()
    recipe = {
        "version": VERSION,
        "base": os.path.relpath(Path(base).resolve(), folder) if local else str(base),
        "scheduler": SCHEDULERS[sampler.kind].__name__,
        "kind": sampler.kind,
        "timesteps": list(sampler.timesteps),
        "guidance_scale": sampler.guidance_scale,
        "chunks": _chunks(sampler),
        "boundary_ratio": sampler.experts and sampler.experts.boundary / 1000,
        "negative_prompt": negative_prompt,
        "max_sequence_length": max_sequence_length,
        "latent_shape": list(latent_shape),
        "frames": frames,
        "height": height,
        "width": width,
        "fps": fps,
        "from_image": from_image,
    }
    adapters = {name: each for name, each in ((ADAPTER, adapter), (LOW_ADAPTER, low_adapter)) if each is not None}
    fresh = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        _save_networks(fresh, transformer, low, sampler, export.pipeline, tensors)
        for name, (lora, parts) in adapters.items():
            getattr(diffusers, export.pipeline).save_lora_weights(
                fresh,
                transformer_lora_layers=dict(parts),
                weight_name=name,
                transformer_lora_adapter_metadata=lora.peft(),
            )
        (fresh / RECIPE).write_text(json.dumps(recipe, indent=2) + "\n")
        script, beside = (export.script, {}) if sampler.chunks is None else export.causal or (None, {})
        for name, path in {"sample.py": script, **beside}.items():
            assert path is not None, "check_recipe refuses chunks where no script samples them"
            shutil.copyfile(path, fresh / name)
        (fresh / "README.md").write_text(
            mask(_model_card(recipe, sampler, card, local, {n: of.rank for n, (of, _) in adapters.items()}, export))
        )
        _swap(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def check_recipe(sampler: Sampler, export: Export) -> None:
    """ValueError for what the pipeline of ``export`` cannot replay."""
    if (sampler.chunks and export.causal is None) or (sampler.experts and not export.experts):
        what = "no chunks" if export.experts else "neither chunks nor two experts"
        raise ValueError(f"{export.pipeline} samples {what}; use another method, or text to video of family wan")
    if sampler.guidance_scale < 1.0:
        raise ValueError(
            f"guidance_scale = {sampler.guidance_scale}: WanPipeline takes every value below 1 for 1 (off); use >= 1"
        )
    if sampler.experts is not None and sampler.experts.low_guidance_scale is not None:
        raise ValueError("two experts of a guidance each: sample.py has one scale; leave out that of the low expert")
    if sampler.experts is not None and sampler.chunks is not None:
        raise ValueError("a causal student with two experts: WanPipeline samples no chunks, and sample.py no experts")


def check_place(folder: Path) -> None:
    """ValueError for a ``folder`` that holds something else than an export."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, and an export is a folder: move it away")
    if folder.exists() and not (folder / RECIPE).is_file() and any(folder.iterdir()):
        raise ValueError(f"{folder} exists and is no export (it has no {RECIPE}): give another folder or empty it")


def _save_networks(
    folder: Path,
    transformer: torch.nn.Module,
    low: torch.nn.Module | None,
    sampler: Sampler,
    pipeline: str,
    tensors: Mapping[str, Mapping[str, torch.Tensor] | None],
) -> None:
    scheduler = SCHEDULERS[sampler.kind](shift=1.0)  # the timesteps are already shifted
    networks = {"transformer": transformer} | ({} if low is None else {"transformer_2": low})
    for name, network in networks.items():
        save_network(folder / name, network, tensors.get(name))
    scheduler.save_pretrained(folder / "scheduler")
    if sampler.experts is not None:
        rest = dict.fromkeys(("tokenizer", "text_encoder", "vae"))
        ratio = sampler.experts.boundary / 1000
        whole = getattr(diffusers, pipeline)(**networks, **rest, scheduler=scheduler, boundary_ratio=ratio)
        whole.save_config(folder)


def _chunks(sampler: Sampler) -> dict[str, Any] | None:
    return None if sampler.chunks is None else asdict(sampler.chunks)


def _sight(window: Mapping[str, int] | None) -> str:
    if window is None:
        return "those before"
    sink = f", the clip's first {window['sink']} among them" if window["sink"] else ""
    return f"{window['frames']} at most{sink}, so that a clip may have any length"


def _swap(fresh: Path, folder: Path) -> None:
    """Put ``fresh`` in the place of ``folder``. Between the two renames the old export lies beside it, never lost."""
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


def _model_card(
    recipe: Mapping[str, Any],
    sampler: Sampler,
    card: Mapping[str, Any],
    local: bool,
    adapters: Mapping[str, int],
    export: Export,
) -> str:
    """``adapters``: the rank of each adapter's file."""
    title = str(card.get("title", "A few-step video student"))
    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag=export.task,
        base_model=None if local else recipe["base"],  # the hub knows no paths
        tags=["diffusers", export.task, "distillation", "ray-distill"],
    )
    steps = ", ".join(f"{t:g}" for t in sampler.timesteps)
    noise = "fresh noise after each step" if sampler.kind == "sde" else "Euler steps"
    guidance = "off" if sampler.guidance_scale == 1.0 else f"{sampler.guidance_scale:g}"
    method = f" with {card['method']}" if "method" in card else ""
    where = f"`{recipe['base']}`{' (relative to this folder)' if local else ''}"
    picture = " first_frame.png" if recipe["from_image"] else ""
    lines = [
        f"---\n{data.to_yaml()}\n---",
        f"# {title}",
        f"Distilled{method} from {where} by ray_distill. A video of {recipe['frames']} frames at "
        f"{recipe['width']}x{recipe['height']} takes {sampler.nfe} network evaluations.",
        "## Sampling",
        "```\npip install diffusers transformers accelerate ftfy imageio imageio-ffmpeg\n"
        f'python sample.py "a prompt"{picture} out.mp4 [seed]\n```',
        f"`sample.py` reads the steps from `{RECIPE}` and takes the text encoder and the VAE from {where}. For "
        "`out.safetensors`, and where that base has no VAE that diffusers knows, it saves the normalised latents.",
        f"Timesteps {steps}; {noise}; guidance {guidance}. A plain `{export.pipeline}` call would choose other "
        "timesteps.",
    ]
    if ADAPTER in adapters:
        lines += [
            f"`{ADAPTER}` is the same student as an adapter of rank {adapters[ADAPTER]}, for the transformer that "
            "training began with: `pipe.load_lora_weights` reads it. `transformer/` has it merged already."
        ]
    if LOW_ADAPTER in adapters:
        lines += [
            f"`{LOW_ADAPTER}` is that of `transformer_2`, of rank {adapters[LOW_ADAPTER]}: "
            f'`pipe.load_lora_weights(folder, weight_name="{LOW_ADAPTER}", load_into_transformer_2=True)`.'
        ]
    if (boundary := recipe["boundary_ratio"]) is not None:
        lines += [
            f"Two experts: `transformer` predicts at timesteps from {1000 * boundary:g} up, `transformer_2` below. "
            f"`{export.pipeline}.from_pretrained` takes this folder, with the text encoder and the VAE of the base."
        ]
    if (chunks := recipe["chunks"]) is not None:
        first = "the first alone, " if chunks["independent_first"] else ""
        lines += [
            f"A causal student: it makes {chunks['frames']} latent frames at a time, {first}and sees "
            f"{_sight(chunks['window'])}. "
            "`causal_wan.py` holds its attention; `WanPipeline` would show each frame the whole clip."
        ]
    if report := card.get("report"):
        lines += ["## Measured", f"```\n{table(report)}\n```"]
    if rest := {key: value for key, value in card.items() if key not in ("title", "method", "report")}:
        lines += ["## Training", "\n".join(f"- {key}: {value}" for key, value in rest.items())]
    return "\n\n".join(lines) + "\n"
