"""Encode the prompts of `evaluate.prompts` once a run; prompts out of the data are in the cache."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import ray
import torch
from torch import Tensor

from ray_distill import sealed
from ray_distill.config import RunConfig
from ray_distill.data.encoders import cleaning
from ray_distill.models.hashing import folder_hash
from ray_distill.models.text import TextEncoder
from ray_distill.sealed import Damaged


def encode_prompts(config: RunConfig) -> Tensor | None:
    """[N, L, D] fp32, or None where the configuration names no prompts. Kept in the run's folder."""
    if not config.evaluate.prompts:
        return None
    path = _file(config)
    with suppress(FileNotFoundError, Damaged):  # not encoded yet, or to be encoded again
        return _read(path)
    task = ray.remote(num_cpus=0.5, num_gpus=config.data.encoder_gpus, scheduling_strategy="DEFAULT")(_encode)
    ray.get(task.remote(config, path), timeout=config.train.timeout_s)
    return _read(path)


def _read(path: Path) -> Tensor:
    return torch.from_numpy(sealed.read_tensors(path)[0]["text"])


def _encode(config: RunConfig, path: Path) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = config.model
    encoder = TextEncoder(model.path, model.max_sequence_length, model.int8_text).to(device)
    text = encoder.encode(list(config.evaluate.prompts.values())).cpu()
    sealed.write_tensors(path, {"text": text.numpy()})


def _file(config: RunConfig) -> Path:
    said = [list(config.evaluate.prompts.values()), config.model.max_sequence_length, config.model.int8_text]
    digest = hashlib.sha256(json.dumps([*said, cleaning()]).encode())
    for part in ("text_encoder", "tokenizer"):
        digest.update(folder_hash(config.model.path / part).encode())
    return config.run_dir / f"prompts-{digest.hexdigest()[:16]}.safetensors"
