"""Export a run's student from its newest checkpoint, as a folder for diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ray_distill.checkpoint import Checkpoint
from ray_distill.checkpoint.network import outline
from ray_distill.config import RunConfig
from ray_distill.export.diffusers import export_student
from ray_distill.models.lora import LoRA
from ray_distill.models.spec import Latent, of_clips
from ray_distill.types import LOW, STUDENT, Role

FOLDER = "export"


def export(
    config: RunConfig,
    checkpoint: Path,
    latent_shape: Latent,
    report: Mapping[str, Any] | None = None,
    folder: Path | None = None,
) -> Path:
    """Write ``folder``, else <run_dir>/export, from ``checkpoint`` with the method's own recipe; returns it."""
    recipe = config.method.sampler()
    high, low = (recipe.experts.high, recipe.experts.low) if recipe.experts else (STUDENT, None)
    dtype = getattr(torch, config.model.export_dtype)
    transformer, own = outline(config, high, checkpoint, dtype)
    other, rest = (None, None) if low is None else outline(config, low, checkpoint, dtype)
    return export_student(
        folder or config.run_dir / FOLDER,
        transformer,
        config.publish.base_model if config.publish else config.model.path,
        recipe,
        latent_shape,
        frames=config.data.frames,
        height=config.data.height,
        width=config.data.width,
        fps=config.data.fps,
        max_sequence_length=config.model.max_sequence_length,
        negative_prompt=config.data.negative_prompt,
        adapter=adapter(config, high, checkpoint),
        low=other,
        from_image=bool(of_clips(config.model.encoders.fields)),
        low_adapter=adapter(config, low, checkpoint) if low in LOW else None,
        tensors={"transformer": own, "transformer_2": rest},
        comfyui=config.model.comfyui_lora,
        card={"title": config.name, "method": config.method.name, "report": report or {}},
    )


def adapter(config: RunConfig, role: Role | None, checkpoint: Path) -> tuple[LoRA, Mapping[str, Tensor]] | None:
    """A trained role's adapter, by plain name. None for whole weights, and for adapters beside parts that are trained
    whole, since load_lora_weights takes adapters and nothing else."""
    lora = None if role is None or config.method.roles[role] != "trained" else config.role(role).lora
    stored = Checkpoint(checkpoint)
    if role is None or lora is None or lora.whole or role not in stored.state.get("roles", {role}):
        return None
    return lora, stored.tensors(role, config.sampled_tensors(role))
