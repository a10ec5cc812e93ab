"""Fetch a worker's rows from Ray Data, the first of them while the worker imports its networks and loads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from itertools import islice
from threading import Thread

import numpy as np
from ray.data import DataIterator

Rows = Mapping[str, np.ndarray]
"""Columns of the rows of a micro-batch, by name."""


def rows_ahead(shard: Callable[[], DataIterator], micro_batch: int) -> Iterator[Rows]:
    """The rows of one micro-batch of a worker's ``shard`` after the other. A thread fetches the first, while the caller
    does other work: fetch tasks and Ray Data's actors take seconds to start. An error of the thread is raised where its
    rows are taken."""
    start: Future[tuple[list[Rows], Iterator[Rows]]] = Future()

    def begin() -> None:
        try:
            rows = iter(shard().iter_batches(batch_size=micro_batch, batch_format="numpy", prefetch_batches=2))
            start.set_result((list(islice(rows, 1)), rows))
        except BaseException as error:
            start.set_exception(error)

    def rows_of() -> Iterator[Rows]:
        first, others = start.result()
        yield from first
        yield from others

    Thread(target=begin, daemon=True).start()  # an executor's thread would keep a process that fails meanwhile
    return rows_of()
