"""Features of the data set's own clips by the metric, with which samples are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from ray_distill import sealed
from ray_distill.bars import bar
from ray_distill.config import RunConfig
from ray_distill.data.prepare.clip_rows import clip_rows
from ray_distill.data.prepare.stages import Decode
from ray_distill.data.source import Source
from ray_distill.data.store.cache import Cache
from ray_distill.evaluate.metrics import Metric
from ray_distill.evaluate.processes import APART
from ray_distill.evaluate.waiting import wait_for
from ray_distill.models.hashing import folder_hash
from ray_distill.sealed import Damaged

TOGETHER = 256
"""Clips of one task."""


def real_features(config: RunConfig, cache: Cache) -> Tensor:
    """The metric's features [N, 64] of the data set's own clips, kept beside the cache."""
    assert config.evaluate.metric is not None
    path = cache.folder / f"features-{folder_hash(config.evaluate.metric)[:16]}.safetensors"
    with suppress(FileNotFoundError, Damaged):  # not measured yet, or to be measured again
        return torch.from_numpy(sealed.read_tensors(path)[0]["features"])
    rows = clip_rows(config.data, cache)
    # Tasks of our own: Ray Data would start two actors and a planner for a few seconds of decoding.
    task: Any = ray.remote(num_cpus=1, **APART)(clip_features)
    parts = [rows[at : at + TOGETHER] for at in range(0, len(rows), TOGETHER)]
    tasks = [task.remote(config.data, config.evaluate.metric, part) for part in parts]
    with bar("   parts of the data's clips, for the metric", len(tasks)) as shown:
        features = np.concatenate(wait_for(tasks, config.train.timeout_s, shown, 1))
    sealed.write_tensors(path, {"features": features})
    return torch.from_numpy(features)


def clip_features(source: Source, folder: Path, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Features [n, 64] by the metric in ``folder`` of the clips of ``rows``, without those that cannot be decoded."""
    metric = Metric.load(folder)
    columns = {name: np.array([row[name] for row in rows], dtype=object) for name in rows[0]}
    features = [
        metric.features(some["pixels"][good]).numpy()
        for some in Decode(source)(columns)
        if (good := some["error"] == "").any()
    ]
    return np.concatenate(features) if features else np.empty((0, metric.channels[-1]), np.float32)
