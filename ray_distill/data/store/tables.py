"""Build, read and filter Arrow tables, which hold millions of rows in little memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

CHUNK = 1024
"""Most rows that exist as Python objects at a time."""


def table_of(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """A table of ``rows``, which are taken one by one."""
    rest = iter(rows)
    chunks = iter(lambda: list(islice(rest, CHUNK)), [])
    return pa.Table.from_batches([pa.RecordBatch.from_pylist(chunk, schema) for chunk in chunks], schema)


def rows_of(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=CHUNK):
        yield from batch.to_pylist()


def equal(table: pa.Table, **values: Any) -> pa.Table:
    """The rows whose columns equal the arguments, in the table's order; Arrow's filters by expressions may change
    it."""
    for name, value in values.items():
        table = table.filter(pc.equal(table[name], value))
    return table


def unequal(table: pa.Table, **values: Any) -> pa.Table:
    """The rows in which no named column equals its argument."""
    for name, value in values.items():
        table = table.filter(pc.not_equal(table[name], value))
    return table


def among(table: pa.Table, column: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.filter(pc.is_in(table[column], value_set=values))


def without(table: pa.Table, column: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table[column], value_set=values)))


def distinct(table: pa.Table, *columns: str) -> pa.Table:
    """The first row for each distinct value of ``columns``, in the table's order."""
    keys = pc.binary_join_element_wise(*(table[name].cast(pa.string()) for name in columns), "\0")
    return table.take(pc.index_in(pc.unique(keys), value_set=keys))
