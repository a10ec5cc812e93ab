"""Encode the prompts of `evaluate.prompts` once a run; prompts out of the data are in the cache."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import ray
import torch

from ray_distill import sealed
from ray_distill.config import RunConfig
from ray_distill.models.conditions import from_bytes, to_bytes
from ray_distill.models.spec import Row, of_captions
from ray_distill.sealed import Damaged


def encode_prompts(config: RunConfig) -> list[Row] | None:
    """The captions' fields of each prompt, or None where the configuration names none. Kept in the run's folder."""
    if not config.evaluate.prompts:
        return None
    path = _file(config)
    with suppress(FileNotFoundError, Damaged):  # not encoded yet, or to be encoded again
        return _read(path, config)
    task = ray.remote(num_cpus=0.5, num_gpus=config.data.encoder_gpus, scheduling_strategy="DEFAULT")(_encode)
    ray.get(task.remote(config, path), timeout=config.train.timeout_s)
    return _read(path, config)


def _read(path: Path, config: RunConfig) -> list[Row]:
    found, fields = sealed.read_tensors(path)[0], of_captions(config.model.encoders.fields)
    latent = config.model.pipeline.latent_shape(*config.shown_size)
    return [
        from_bytes({name: found[f"{name}.{number}"].tobytes() for name in fields}, fields, latent)
        for number in range(len(config.evaluate.prompts))
    ]


def _encode(config: RunConfig, path: Path) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fields = of_captions(config.model.encoders.fields)
    rows = config.model.encoders.text_encoder().to(device).encode(list(config.evaluate.prompts.values()))
    stored = {
        f"{name}.{number}": np.frombuffer(to_bytes(name, row[name], field), np.uint8)
        for number, row in enumerate(rows)
        for name, field in fields.items()
    }
    sealed.write_tensors(path, stored)


def _file(config: RunConfig) -> Path:
    said = [list(config.evaluate.prompts.values()), config.model.encoders.encoder]
    digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()
    return config.run_dir / f"prompts-{digest[:16]}.safetensors"
