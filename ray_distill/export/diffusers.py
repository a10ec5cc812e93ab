"""Write a student as a folder for diffusers: transformer, scheduler, recipe, sample.py, model card."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler, WanPipeline
from huggingface_hub import ModelCardData

from ray_distill.config.secrets import mask
from ray_distill.evaluate.report import table
from ray_distill.export.base import check_index
from ray_distill.models import families, family_of
from ray_distill.models.lora import LoRA
from ray_distill.models.pipeline import Pipeline
from ray_distill.models.spec import Family
from ray_distill.types import Sampler

RECIPE = "recipe.json"
ADAPTER = "pytorch_lora_weights.safetensors"  # the name that diffusers looks for
VERSION = 1  # of recipe.json
SCHEDULERS = {"sde": FlowMatchLCMScheduler, "ode": FlowMatchEulerDiscreteScheduler}


def export_student(
    folder: Path,
    transformer: torch.nn.Module,
    base: Path | str,
    sampler: Sampler,
    latent_shape: tuple[int, int, int, int],
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
) -> Path:
    """Write ``folder``: transformer/, scheduler/, recipe.json, sample.py and README.md; returns ``folder``.

    ``transformer`` is a family's, with the student's weights, and is saved in its own dtype.
    ``base`` is the teacher's pipeline folder, kept as a path relative to ``folder``, or a name on the hub: text
    encoder and VAE come from there. ``latent_shape`` is (C, t, h, w). ``card`` may hold ``title``, ``method``,
    ``report`` (an evaluation's, shown as a table) and further values that are listed as they are. ``adapter``, where
    the student was trained as one, is what ``transformer`` has merged already, by plain name; it is written, too, as
    pytorch_lora_weights.safetensors for the pipeline's ``load_lora_weights``. ``low`` is the expert of low noise of a
    recipe with two: the folder is then a WanPipeline with transformer_2 and boundary_ratio, but for text and VAE.

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
    check_recipe(sampler, family)
    check_place(folder)
    if Path(base).is_dir():
        check_index(Pipeline(family.name, Path(base), "base"))
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
    }
    fresh = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        _save_networks(fresh, transformer, low, sampler)
        if adapter is not None:
            lora, tensors = adapter
            getattr(diffusers, family.export.pipeline).save_lora_weights(
                fresh,
                transformer_lora_layers=dict(tensors),
                weight_name=ADAPTER,
                transformer_lora_adapter_metadata=lora.peft(),
            )
        (fresh / RECIPE).write_text(json.dumps(recipe, indent=2) + "\n")
        script, beside = (family.export.script, {}) if sampler.chunks is None else family.export.causal or (None, {})
        for name, path in {"sample.py": script, **beside}.items():
            assert path is not None, "check_recipe refuses chunks where no script samples them"
            shutil.copyfile(path, fresh / name)
        (fresh / "README.md").write_text(
            mask(_model_card(recipe, sampler, card, local, adapter and adapter[0], family.export.pipeline))
        )
        _swap(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def check_recipe(sampler: Sampler, family: Family) -> None:
    """ValueError for what the family's pipeline cannot replay."""
    export = family.export
    if (sampler.chunks and export.causal is None) or (sampler.experts and not export.experts):
        raise ValueError(f"{export.pipeline} samples neither chunks nor two experts; use family wan")
    if sampler.guidance_scale < 1.0:
        raise ValueError(
            f"guidance_scale = {sampler.guidance_scale}: WanPipeline takes every value below 1 for 1 (off); use >= 1"
        )
    if sampler.experts is not None and sampler.chunks is not None:
        raise ValueError("a causal student with two experts: WanPipeline samples no chunks, and sample.py no experts")


def check_place(folder: Path) -> None:
    """ValueError for a ``folder`` that holds something else than an export."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, and an export is a folder: move it away")
    if folder.exists() and not (folder / RECIPE).is_file() and any(folder.iterdir()):
        raise ValueError(f"{folder} exists and is no export (it has no {RECIPE}): give another folder or empty it")


def _save_networks(folder: Path, transformer: torch.nn.Module, low: torch.nn.Module | None, sampler: Sampler) -> None:
    scheduler = SCHEDULERS[sampler.kind](shift=1.0)  # the timesteps are already shifted
    networks = {"transformer": transformer} | ({} if low is None else {"transformer_2": low})
    for name, network in networks.items():
        network.save_pretrained(folder / name, safe_serialization=True)  # type: ignore[operator]
    scheduler.save_pretrained(folder / "scheduler")
    if sampler.experts is not None:
        rest = dict.fromkeys(("tokenizer", "text_encoder", "vae"))
        ratio = sampler.experts.boundary / 1000
        WanPipeline(**networks, **rest, scheduler=scheduler, boundary_ratio=ratio).save_config(folder)


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
    recipe: Mapping[str, Any], sampler: Sampler, card: Mapping[str, Any], local: bool, lora: LoRA | None, pipeline: str
) -> str:
    title = str(card.get("title", "A few-step video student"))
    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag="text-to-video",
        base_model=None if local else recipe["base"],  # the hub knows no paths
        tags=["diffusers", "text-to-video", "distillation", "ray-distill"],
    )
    steps = ", ".join(f"{t:g}" for t in sampler.timesteps)
    noise = "fresh noise after each step" if sampler.kind == "sde" else "Euler steps"
    guidance = "off" if sampler.guidance_scale == 1.0 else f"{sampler.guidance_scale:g}"
    method = f" with {card['method']}" if "method" in card else ""
    where = f"`{recipe['base']}`{' (relative to this folder)' if local else ''}"
    lines = [
        f"---\n{data.to_yaml()}\n---",
        f"# {title}",
        f"Distilled{method} from {where} by ray_distill. A video of {recipe['frames']} frames at "
        f"{recipe['width']}x{recipe['height']} takes {sampler.nfe} network evaluations.",
        "## Sampling",
        "```\npip install diffusers transformers accelerate ftfy imageio imageio-ffmpeg\n"
        'python sample.py "a prompt" out.mp4 [seed]\n```',
        f"`sample.py` reads the steps from `{RECIPE}` and takes the text encoder and the VAE from {where}. For "
        "`out.safetensors`, and where that base has no VAE that diffusers knows, it saves the normalised latents.",
        f"Timesteps {steps}; {noise}; guidance {guidance}. A plain `{pipeline}` call would choose other timesteps.",
    ]
    if lora is not None:
        lines += [
            f"`{ADAPTER}` is the same student as an adapter of rank {lora.rank}, for the transformer that training "
            "began with: `pipe.load_lora_weights` reads it. `transformer/` has it merged already."
        ]
    if (boundary := recipe["boundary_ratio"]) is not None:
        lines += [
            f"Two experts: `transformer` predicts at timesteps from {1000 * boundary:g} up, `transformer_2` below. "
            "`WanPipeline.from_pretrained` takes this folder, with the text encoder and the VAE of the base."
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
