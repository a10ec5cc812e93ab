"""Fetch a worker's rows from Ray Data, the first of them while the worker imports its networks and loads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from itertools import islice
from threading import Thread

import numpy as np
from ray.data import DataIterator

Rows = Mapping[str, np.ndarray]
"""Columns of the rows of a micro-batch, by name."""


def rows_ahead(iterator: DataIterator, micro_batch: int) -> Iterator[Rows]:
    """The rows of one micro-batch after the other. A thread fetches the first, while the caller does other work: fetch
    tasks and Ray Data's actors take seconds to start. An error of the fetch is raised where its rows are taken."""
    rows = iter(iterator.iter_batches(batch_size=micro_batch, batch_format="numpy", prefetch_batches=2))
    first: Future[list[Rows]] = Future()

    def fetch() -> None:
        try:
            first.set_result(list(islice(rows, 1)))
        except BaseException as error:
            first.set_exception(error)

    def taken() -> Iterator[Rows]:
        yield from first.result()
        yield from rows

    Thread(target=fetch, daemon=True).start()  # an executor's thread would keep a process that fails meanwhile
    return taken()
