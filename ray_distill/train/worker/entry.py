"""Entry of a worker: the only function of this folder that the driver imports; light to import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_distill.collector import at_rest


def train_worker(settings: Mapping[str, Any]) -> None:
    """Run the training loop of this rank; Ray Train calls it in each worker process."""
    with at_rest():
        from ray_distill.train.worker.loop import work

    work(settings["job"])
