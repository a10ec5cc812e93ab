"""Export a run's student from its newest checkpoint, as a folder for diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ray_distill.checkpoint import Checkpoint
from ray_distill.checkpoint.network import outline
from ray_distill.config import RunConfig
from ray_distill.evaluate.names import COMPARED, PROMPTS
from ray_distill.export.checks import FOLDER
from ray_distill.export.diffusers import Adapter, export_student
from ray_distill.export.folded import folded
from ray_distill.export.low_rank import low_rank
from ray_distill.jsonl import read_document
from ray_distill.models.hashing import file_hash
from ray_distill.models.loading import empty_transformer, hollow_transformer
from ray_distill.models.lora import LoRA
from ray_distill.models.lora_files import LoRATensors
from ray_distill.models.spec import Latent, of_clips
from ray_distill.types import LOW, STUDENT, Role

SHOWN = 4
"""Most videos that an export takes along."""


def export(
    config: RunConfig,
    checkpoint: Path,
    latent_shape: Latent,
    report: Mapping[str, Any] | None = None,
    folder: Path | None = None,
) -> Path:
    """Export the student of ``checkpoint`` with the method's recipe into ``folder``, or <run_dir>/export; returns the
    folder."""
    recipe = config.method.sampler()
    high, low = (recipe.experts.high, recipe.experts.low) if recipe.experts else (STUDENT, None)
    dtype = getattr(torch, config.model.export_dtype)
    transformer, own = outline(config, high, checkpoint, dtype)
    other, rest = (None, None) if low is None else outline(config, low, checkpoint, dtype)
    lines: dict[str, str] = {}
    first = adapter(config, high, checkpoint)
    second = adapter(config, low, checkpoint) if low in LOW else None
    if config.model.export_lora_rank is not None:
        first, lines = _cut(config, high, checkpoint, transformer, own)
        if low in LOW and other is not None:
            second, more = _cut(config, low, checkpoint, other, rest)
            lines |= {f"{name} (low noise)": line for name, line in more.items()}
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
        adapter=first,
        low=other,
        from_image=bool(of_clips(config.model.encoders.fields)),
        vae_tiling=config.model.vae_tiling,
        low_adapter=second,
        formats=config.model.export_formats,
        tensors={"transformer": own, "transformer_2": rest},
        card={
            "title": config.name,
            "method": config.method.name,
            "report": report or {},
            "samples": _samples(config.run_dir / COMPARED / STUDENT) if report else {},
            **_merged(config),
            **lines,
        },
    )


def _samples(folder: Path) -> dict[Path, str]:
    """The prompts of the first videos that the evaluation wrote of the student, by file; {} without an evaluation."""
    prompts = read_document(folder / PROMPTS) if (folder / PROMPTS).is_file() else {}
    return {folder / name: prompt for name, prompt in [*prompts.items()][:SHOWN] if (folder / name).is_file()}


def _merged(config: RunConfig) -> dict[str, str]:
    """Lines for the card on the LoRAs that are merged into the teacher and into this student."""
    return {
        f"LoRA merged into the teacher{f' ({lora.expert} noise)' if lora.expert in ('high', 'low') else ''}, "
        f"and inside every file of this student: `{lora.path.name}`": (
            f"weight {lora.weight:g}, sha256 {file_hash(lora.path)}"
        )
        for lora in config.model.loras
    }


def _cut(
    config: RunConfig, role: Role, checkpoint: Path, network: nn.Module, tensors: Mapping[str, Tensor] | None
) -> tuple[Adapter | None, dict[str, str]]:
    """(adapter of rank ``model.export_lora_rank`` nearest to a role's difference to its published weights, without
    ``model.loras``, and its lines for the card); (None, {}) where the role's stage has not begun."""
    if role not in Checkpoint(checkpoint).state.get("roles", {role}):
        return None, {}
    assert tensors is not None and config.model.export_lora_rank is not None  # a random start is refused before a run
    _, start = hollow_transformer(config.model.family, config.source(role), torch.float32)
    cut = low_rank(network, tensors, start, config.model.export_lora_rank)
    return (cut.lora, cut.tensors), cut.summary


def adapter(config: RunConfig, role: Role | None, checkpoint: Path) -> tuple[LoRA, Mapping[str, Tensor]] | None:
    """(settings of a trained role's adapter, its tensors by plain name), for the published network: ``model.loras``
    are part of it. None for a role with full weights, and for an
    adapter beside parts whose full weights are trained, since load_lora_weights takes only adapters."""
    lora = None if role is None or config.method.roles[role] != "trained" else config.role(role).lora
    stored = Checkpoint(checkpoint)
    if role is None or lora is None or lora.whole or role not in stored.state.get("roles", {role}):
        return None
    tensors = stored.tensors(role, config.sampled_tensors(role))
    if not (loras := config.loras(role)):
        return lora, tensors
    network, family = empty_transformer(config.model.family, config.source(role)), config.model.pipeline.of
    return folded(lora, tensors, [LoRATensors(file, network, family) for file in loras])
