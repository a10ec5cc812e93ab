"""Model card of an export: fill the template card.md with the recipe and the run's values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
from huggingface_hub import ModelCard, ModelCardData

from ray_distill.evaluate.report import table
from ray_distill.models.spec import Export
from ray_distill.types import Sampler

ADAPTER = "pytorch_lora_weights.safetensors"  # the name that diffusers looks for
LOADER = "load_lora_weights"
OTHER_LOADER = "pipe.transformer.load_lora_adapter"  # where the pipeline has none
LOW_ADAPTER = "pytorch_lora_weights_2.safetensors"
CUT = "adapter of the difference"
"""Line in the card of a student whose adapter approximates the difference that training made."""
SAMPLES = "samples"
"""Folder of an export with videos of its student."""
OWN = ("title", "method", "report", "samples")
"""Values of a card that have a place of their own."""
TEMPLATE = Path(__file__).with_name("card.md")


def model_card(
    recipe: Mapping[str, Any],
    sampler: Sampler,
    card: Mapping[str, Any],
    local: bool,
    ranks: Mapping[str, int],
    export: Export,
    files: Mapping[str, Sequence[str]],
    no_workflow: str | None = None,
) -> str:
    """The text of README.md. ``ranks`` are the adapters' ranks by file name; ``local``: the base is a folder, not a
    name on the hub; ``files`` are those of ``model.export_formats``, by format. ``no_workflow`` is the reason why
    there is no workflow for ComfyUI: "" where there is one, None where nothing is said.

    ``card`` may have ``title``, ``method``, ``report`` and ``samples``, prompts by the files of their videos, which the
    hub shows as the model's widget; its further values are listed under Training.
    """
    samples = {f"{SAMPLES}/{path.name}": prompt for path, prompt in card.get("samples", {}).items()}
    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag=export.task,
        base_model=None if local else recipe["base"],  # a path means nothing on the hub
        tags=["diffusers", export.task, "distillation", "ray-distill"],
        widget=[dict(text=prompt, output=dict(url=name)) for name, prompt in samples.items()] or None,
    )
    chunks, boundary, report = recipe["chunks"], recipe["boundary_ratio"], card.get("report")
    values = {
        **{name: recipe[name] for name in ("frames", "width", "height", "from_image", "kind", "chunks")},
        "title": card.get("title", "A few-step video student"),
        "method": card.get("method"),
        "where": f"`{recipe['base']}`{' (relative to this folder)' if local else ''}",
        "nfe": sampler.nfe,
        "timesteps": [f"{t:g}" for t in sampler.timesteps],
        "guidance": _guidance(sampler),
        "pipeline": export.pipeline,
        "ranks": ranks,
        "adapter": ADAPTER,
        "loader": f"pipe.{LOADER}" if hasattr(getattr(diffusers, export.pipeline), LOADER) else OTHER_LOADER,
        "low_adapter": LOW_ADAPTER,
        "cut": CUT in card,
        "files": {kind: [f"`{name}`" for name in names] for kind, names in files.items()},
        "no_workflow": no_workflow,
        "boundary": None if boundary is None else f"{1000 * boundary:g}",
        "sight": _sight(chunks["window"]) if chunks else "",
        "measured": table(report) if report else "",
        "training": {key: value for key, value in card.items() if key not in OWN},
    }
    return f"{str(ModelCard.from_template(data, template_path=str(TEMPLATE), **values)).rstrip()}\n"


def _guidance(sampler: Sampler) -> str:
    """The scale, or "off"; that of sound behind it, if it has one of its own."""

    def text(scale: float) -> str:
        return "off" if scale == 1.0 else f"{scale:g}"

    scale, audio = text(sampler.guidance_scale), sampler.audio_guidance_scale
    return scale if audio is None else f"{scale}, of sound {text(audio)}"


def _sight(window: Mapping[str, int] | None) -> str:
    """The frames that a chunk sees, in words."""
    if window is None:
        return "those before"
    sink = f", the clip's first {window['sink']} among them" if window["sink"] else ""
    return f"{window['frames']} at most{sink}, so that a clip may have any length"
