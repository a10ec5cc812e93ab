"""Fetch a worker's rows from Ray Data, the first of them while the worker imports its networks and loads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from ray.data import DataIterator

from ray_distill.data.feed.ahead import ahead

Rows = Mapping[str, np.ndarray]
"""Columns of the rows of a micro-batch, by name."""


def rows_ahead(shard: Callable[[], DataIterator], micro_batch: int) -> Iterator[Rows]:
    """The rows of one micro-batch of a worker's ``shard`` after the other. The first is fetched while the caller does
    other work: fetch tasks and Ray Data's actors take seconds to start."""

    def rows() -> Iterator[Rows]:
        return iter(shard().iter_batches(batch_size=micro_batch, batch_format="numpy", prefetch_batches=2))

    return ahead(rows)
