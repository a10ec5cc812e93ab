"""Parquet files of encoded rows, each row under the hash of all that it was made from; files are only ever added."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ERRORS = ".errors.json"
GROUP, FILE = 1 << 20, 64 << 20
"""Bytes of a row group, which is what one read decodes, and of a file."""


class Place(NamedTuple):
    """Where a stored row stands."""

    file: str
    group: int
    row: int


PLACES = pa.schema([("id", pa.string()), ("file", pa.string()), ("group", pa.int64()), ("row", pa.int64())])


def placed(ids: pa.Array | pa.ChunkedArray, places: pa.Table) -> pa.Table:
    """file, group, row of each of ``ids``; "", -1, -1 of one that is not in ``places``."""
    found = places.select(Place._fields).take(pc.index_in(ids, value_set=places["id"]))
    empty = zip(found.columns, ("", -1, -1), strict=True)
    return pa.table([pc.fill_null(column, value) for column, value in empty], Place._fields)


def address(*parts: Any) -> str:
    """The id of a row that is made from ``parts``."""
    return address_of(parts)


def address_of(parts: Iterable[Any]) -> str:
    """That of parts which come one by one: as of ``repr`` of their tuple."""
    digest, count = hashlib.blake2b(b"(", digest_size=16), 0
    for count, part in enumerate(parts, 1):
        digest.update(f"{', ' if count > 1 else ''}{part!r}".encode())
    digest.update(b",)" if count == 1 else b")")
    return digest.hexdigest()


@dataclass(frozen=True)
class Store:
    """One folder of such files: the rows of one encoder."""

    folder: Path

    def places(self) -> pa.Table:
        """Where each id stands: id, file, group, row. What two attempts of one write left behind is there twice."""
        return pa.concat_tables(
            [PLACES.empty_table(), *(self.places_in(path.name) for path in sorted(self.folder.glob("*.parquet")))]
        )

    def places_in(self, name: str) -> pa.Table:
        groups = [PLACES.empty_table()]
        with pq.ParquetFile(self.folder / name) as file:
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, columns=["id"])["id"]
                count = len(ids)
                stands = [pa.repeat(name, count), pa.repeat(group, count), pa.array(range(count))]
                groups.append(pa.table([ids, *stands], PLACES.names).cast(PLACES))
        return pa.concat_tables(groups)

    def find(self, ids: Sequence[str]) -> list[Place]:
        """Where ``ids`` stand, which are all there."""
        asked = placed(pa.array(ids, pa.string()), self.places())
        assert "" not in asked["file"].to_pylist(), f"{self.folder}: not all of {ids} are there"
        return [Place(**row) for row in asked.to_pylist()]

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """A file of ``rows``, whole or not there; the same ids make the same file."""
        if not rows:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{address(*(row['id'] for row in rows))}.parquet"
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        table = pa.Table.from_pylist([dict(row) for row in rows])
        group = max(1, GROUP * len(rows) // max(1, table.nbytes))
        pq.write_table(table, temporary, row_group_size=group, compression="zstd")
        temporary.replace(path)

    def write_errors(self, errors: Mapping[str, str]) -> None:
        """For those who wait for rows that cannot be made: why not, by id."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{address(*sorted(errors))}{ERRORS}"
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(dict(errors)))
        temporary.replace(path)

    def read(self, places: Iterable[Place], column: str) -> list[Any]:
        """The values at ``places``; a row group is decoded once, however many of its rows are asked for."""
        wanted: dict[tuple[str, int], list[tuple[int, int]]] = {}
        count = 0
        for count, (name, group, row) in enumerate(places, 1):
            wanted.setdefault((name, group), []).append((count - 1, row))
        found: list[Any] = [None] * count
        for (name, group), asked in wanted.items():
            with pq.ParquetFile(self.folder / name) as file:
                values = file.read_row_group(group, columns=[column])[column]
            for place, row in asked:
                found[place] = values[row].as_py()
        return found
