"""Encode the prompts of `evaluate.prompts` once per run; the cache has the prompts of the data."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from ray_distill import sealed
from ray_distill.config import RunConfig
from ray_distill.data.pictures import picture_rows
from ray_distill.models.conditions import from_bytes, to_bytes
from ray_distill.models.spec import Row, of_clips
from ray_distill.sealed import Damaged


def encode_prompts(config: RunConfig) -> list[Row] | None:
    """Conditioning of each prompt and its picture, stored in the run's folder; None if the configuration names no
    prompts."""
    if not config.evaluate.prompts:
        return None
    path = _file(config)
    with suppress(FileNotFoundError, Damaged):  # not encoded yet, or to be encoded again
        return _read(path, config)
    task = ray.remote(num_cpus=0.5, num_gpus=config.data.encoder_gpus, scheduling_strategy="DEFAULT")(_encode)
    ray.get(task.remote(config, path), timeout=config.train.timeout_s)
    return _read(path, config)


def _read(path: Path, config: RunConfig) -> list[Row]:
    tensors, fields = sealed.read_tensors(path)[0], config.model.encoders.fields
    latent = config.model.pipeline.latent_shape(*config.shown_size)
    return [
        from_bytes({name: tensors[f"{name}.{number}"].tobytes() for name in fields}, fields, latent)
        for number in range(len(config.evaluate.prompts))
    ]


def _encode(config: RunConfig, path: Path) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models, settings = config.model.encoders, config.evaluate
    fields, latent = models.fields, config.model.pipeline.latent_shape(*config.shown_size)
    rows = models.text_encoder().to(device).encode(list(settings.prompts.values()))
    if of_clips(fields):
        pictures = picture_rows(models, [settings.images[name] for name in settings.prompts], config.shown_size, device)
        rows = [{**row, **picture} for row, picture in zip(rows, pictures, strict=True)]
    stored = {
        f"{name}.{number}": np.frombuffer(to_bytes(name, row[name], field, latent), np.uint8)
        for number, row in enumerate(rows)
        for name, field in fields.items()
    }
    sealed.write_tensors(path, stored)


def _file(config: RunConfig) -> Path:
    settings, models = config.evaluate, config.model.encoders
    parts: list[Any] = [list(settings.prompts.values()), models.encoder]
    if settings.images:
        hashes = [hashlib.sha256(settings.images[name].read_bytes()).hexdigest() for name in settings.prompts]
        parts += [models.images, config.shown_size, hashes]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return config.run_dir / f"prompts-{digest[:16]}.safetensors"
