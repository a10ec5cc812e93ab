"""The rows that Ray Data fetched, as the micro-batches of each step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from ray.data import DataIterator

from ray_distill.data.plan import share
from ray_distill.data.stream import Stream
from ray_distill.types import Batch, Placement


def micro_batches(
    stream: Stream, iterator: DataIterator, placement: Placement, device: torch.device
) -> Iterator[list[Batch]]:
    """The micro-batches of each step from ``stream.start`` on, for one worker.

    RuntimeError where other samples come than the data plan says: a run never trains on data it cannot name.
    """
    raw = iter(iterator.iter_batches(batch_size=stream.micro_batch, batch_format="numpy", prefetch_batches=2))
    positions = share(stream.global_batch, placement.data_rank, placement.data_size, stream.micro_batch)
    uncond = torch.from_numpy(stream.cache.uncond).to(device).expand(stream.micro_batch, -1, -1)
    for step in range(stream.start, stream.steps):
        batches = []
        for wanted in step * stream.global_batch + positions:
            rows = next(raw)
            if not np.array_equal(rows["sample_id"], wanted):
                raise RuntimeError(
                    f"rank {placement.data_rank}, step {step}: the data plan says samples {wanted[:3]}..., "
                    f"but samples {rows['sample_id'][:3]}... came"
                )
            tensors = {name: torch.from_numpy(np.array(array)).to(device) for name, array in rows.items()}
            batches.append(
                Batch(
                    sample_ids=tensors["sample_id"],
                    latent_shape=stream.cache.latent_shape,
                    cond={"text": tensors["text"]},
                    uncond={"text": uncond},
                    x_0=tensors.get("latents"),
                )
            )
        yield batches
