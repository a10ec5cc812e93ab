"""Check, before a run and at the export, the recipe, the folder and the hub's token of an export, without diffusers."""

from __future__ import annotations

from pathlib import Path

from ray_distill.config import ConfigError, RunConfig
from ray_distill.models.spec import Export
from ray_distill.types import Sampler

FOLDER, RECIPE = "export", "recipe.json"


def check_recipe(sampler: Sampler, export: Export) -> None:
    """ValueError for a recipe that the pipeline of ``export`` cannot replay."""
    if (sampler.chunks and export.causal is None) or (sampler.experts and not export.experts):
        what = "no chunks" if export.experts else "neither chunks nor two experts"
        raise ValueError(f"{export.pipeline} samples {what}; use another method, or text to video of family wan")
    for name in ("guidance_scale", "audio_guidance_scale"):
        if (scale := getattr(sampler, name)) is not None and scale < 1.0:
            raise ValueError(f"{name} = {scale}: {export.pipeline} takes all below 1 for 1 (off); use >= 1")
    if sampler.experts is not None and sampler.experts.low_guidance_scale is not None:
        raise ValueError(
            "two experts with different guidance: sample.py has one scale; leave out that of the low expert"
        )
    if sampler.experts is not None and sampler.chunks is not None:
        raise ValueError("a causal student with two experts: the script of chunks samples one expert; use one student")


def check_place(folder: Path) -> None:
    """ValueError for a ``folder`` that holds anything but an export."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, and an export is a folder: move it away")
    if folder.exists() and not (folder / RECIPE).is_file() and any(folder.iterdir()):
        raise ValueError(f"{folder} exists and is no export (it has no {RECIPE}): give another folder or empty it")


def check_token(config: RunConfig) -> None:
    """ConfigError where the run has a ``publish`` section and this machine has no token; nothing is sent."""
    if config.publish is None:
        return
    from huggingface_hub import get_token  # it brings an HTTP client: a tenth of a second of every command's start

    if get_token() is None:
        raise ConfigError(
            f"publish.hub_model_id = {config.publish.hub_model_id}: the hub needs a token, and there is none. Set "
            "HF_TOKEN, or run: hf auth login. To train without publishing: --no-push"
        )
