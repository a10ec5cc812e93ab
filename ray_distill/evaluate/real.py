"""Features of the data set's own clips by the metric, with which samples are compared."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ray_distill import sealed
from ray_distill.config import RunConfig
from ray_distill.data.store.cache import Cache
from ray_distill.evaluate.metrics import Metric
from ray_distill.models.hashing import folder_hash
from ray_distill.sealed import Damaged


def real_features(config: RunConfig, cache: Cache) -> Tensor:
    """The metric's features [N, 64] of the data set's own clips, kept beside the cache."""
    assert config.evaluate.metric is not None
    path = cache.folder / f"features-{folder_hash(config.evaluate.metric)[:16]}.safetensors"
    with suppress(FileNotFoundError, Damaged):  # not measured yet, or to be measured again
        return torch.from_numpy(sealed.read_tensors(path)[0]["features"])
    from ray_distill.data.prepare.pipeline import real_videos  # imports Ray Data, which a sampling task does not need

    metric = Metric.load(config.evaluate.metric)

    def measure(rows: dict[str, Any]) -> dict[str, np.ndarray]:
        good = rows["error"] == ""
        return {"features": metric.features(rows["pixels"][good]).numpy()}

    rows = real_videos(config.data, cache).map_batches(measure, batch_size=256).take_all()
    features = np.stack([row["features"] for row in rows])
    sealed.write_tensors(path, {"features": features})
    return torch.from_numpy(features)
