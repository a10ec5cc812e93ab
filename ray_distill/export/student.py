"""Export a run's student from its newest checkpoint, as a folder for diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_distill.checkpoint import Checkpoint
from ray_distill.checkpoint.network import load_network
from ray_distill.config import RunConfig
from ray_distill.export.diffusers import export_student
from ray_distill.types import STUDENT

FOLDER = "export"


def export(
    config: RunConfig,
    checkpoint: Path,
    latent_shape: tuple[int, int, int, int],
    report: Mapping[str, Any] | None = None,
    folder: Path | None = None,
) -> Path:
    """Write ``folder``, else <run_dir>/export, from ``checkpoint`` with the method's own recipe; returns it."""
    lora, recipe = config.role(STUDENT).lora, config.method.sampler()
    high, low = (recipe.experts.high, recipe.experts.low) if recipe.experts else (STUDENT, None)
    # load_lora_weights puts adapters, and nothing else, on the first transformer.
    alone = lora is not None and not lora.whole and high == STUDENT
    return export_student(
        folder or config.run_dir / FOLDER,
        load_network(config, high, checkpoint),
        config.publish.base_model if config.publish else config.model.path,
        recipe,
        latent_shape,
        frames=config.data.frames,
        height=config.data.height,
        width=config.data.width,
        fps=config.data.fps,
        max_sequence_length=config.model.max_sequence_length,
        negative_prompt=config.data.negative_prompt,
        adapter=(lora, Checkpoint(checkpoint).tensors(STUDENT, config.student_tensors)) if lora and alone else None,
        low=None if low is None else load_network(config, low, checkpoint),
        card={"title": config.name, "method": config.method.name, "report": report or {}},
    )
