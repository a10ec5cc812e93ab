"""Entry of a worker: the only function of this folder that the driver imports; light to import."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from functools import partial
from typing import Any

from ray_distill.collector import at_rest


def train_worker(settings: Mapping[str, Any]) -> None:
    """Run the training loop of this rank; Ray Train calls it in each worker process."""
    import ray.train

    from ray_distill.data.feed.fetch import rows_ahead

    job = settings["job"]
    rows = rows_ahead(partial(ray.train.get_dataset_shard, "train"), job.stream.micro_batch)
    with at_rest():
        if not any(job.config.role(role).lora for role in job.config.held_roles):
            from ray_distill.models.light_diffusers import import_networks

            import_networks()
        from ray_distill.train.worker.loop import work
    gc.freeze()  # no network stands here yet: what is frozen was imported, and a search through it takes half a second

    work(job, rows)
