"""Stores: parquet files of encoded rows; a row's id is the hash of everything that it depends on.

Damage on disk never reaches a caller: a file's name is the hash of its rows' ids, each value has beside it a digest of
the value and its row's id, and pages have Parquet's checksums. A file that fails one of these checks is renamed to
``*.parquet.damaged``; the next preparation finds its rows missing, and encodes them again.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_distill import durable, sealed
from ray_distill.sealed import Damaged

log = logging.getLogger(__name__)
ERRORS, ASIDE = ".errors.json", ".damaged"
SEAL = "_seal"
"""Suffix of the column with the digests of another column."""
GROUP, FILE = 1 << 20, 64 << 20
"""Most bytes of a row group, which one read decodes, and of a file."""
BROKEN = (pa.ArrowException, OSError, ValueError, LookupError, MemoryError, OverflowError)
"""Errors of Arrow on bytes that are no valid Parquet."""
REMEDY = "the next preparation, with which train begins, encodes its rows again"


class Place(NamedTuple):
    """The place of the row ``id``: a row of a row group in a ``file`` of ``size`` bytes."""

    file: str
    group: int
    row: int
    id: str = ""
    size: int = -1


PLACES = pa.schema(
    [("file", pa.string()), ("group", pa.int64()), ("row", pa.int64()), ("id", pa.string()), ("size", pa.int64())]
)


def place_columns(ids: pa.Array | pa.ChunkedArray, places: pa.Table) -> pa.Table:
    """The columns of Place for each of ``ids``; "", -1, -1, "", -1 for an id that is not in ``places``."""
    columns = places.select(Place._fields).take(pc.index_in(ids, value_set=places["id"]))
    empty = zip(columns.columns, Place("", -1, -1), strict=True)
    return pa.table([pc.fill_null(column, value) for column, value in empty], Place._fields)


def address(*parts: Any) -> str:
    """The id of a row that depends on ``parts``."""
    return address_of(parts)


def address_of(parts: Iterable[Any]) -> str:
    """The id of a row from an iterable of parts: the hash of ``repr`` of their tuple."""
    digest, count = hashlib.blake2b(b"(", digest_size=16), 0
    for count, part in enumerate(parts, 1):
        digest.update(f"{', ' if count > 1 else ''}{part!r}".encode())
    digest.update(b",)" if count == 1 else b")")
    return digest.hexdigest()


@dataclass(frozen=True)
class Store:
    """A folder of parquet files with the rows of one encoder."""

    folder: Path

    def places(self) -> pa.Table:
        """The place of each row (``PLACES``). A row that two attempts of one write left behind appears twice. A damaged
        file is set aside with a warning, and counts as without rows."""
        tables = [PLACES.empty_table()]
        for path in sorted(self.folder.glob("*.parquet")):
            try:
                tables.append(self.places_in(path.name))
            except Damaged as damaged:
                log.warning("%s", damaged)
        return pa.concat_tables(tables)

    def places_in(self, name: str) -> pa.Table:
        """The places of one file's rows; Damaged where its ids are not those that were written."""
        with self._open(name) as (file, size):
            ids = file.read(columns=["id"])["id"].combine_chunks()
            counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            if f"{address(*ids.to_pylist())}.parquet" != name or sum(counts) != len(ids):
                raise ValueError("its ids are not those that it was written with")
        groups = [number for number, count in enumerate(counts) for _ in range(count)]
        rows = [row for count in counts for row in range(count)]
        constant = pa.repeat(name, len(ids)), pa.repeat(size, len(ids))
        return pa.table([constant[0], groups, rows, ids, constant[1]], PLACES.names).cast(PLACES)

    def find(self, ids: Sequence[str]) -> list[Place]:
        """The places of ``ids``; the store must have all of them."""
        places = place_columns(pa.array(ids, pa.string()), self.places())
        assert "" not in places["file"].to_pylist(), f"{self.folder}: not all of {ids} are there"
        return [Place(**row) for row in places.to_pylist()]

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a file of ``rows``, whole or not at all. An existing file of the same ids stays, since other caches may
        name it in their index."""
        if not rows:
            return
        path = self.folder / f"{address(*(str(row['id']) for row in rows))}.parquet"
        if self._stands(path.name):
            return
        table = pa.Table.from_pylist([dict(row) for row in rows])
        for name in table.column_names:
            if name != "id":
                pairs = zip(table["id"], table[name], strict=True)
                seals = pa.array([_seal(id_.as_py(), name, value) for id_, value in pairs], pa.binary(16))
                table = table.append_column(name + SEAL, seals)
        group = max(1, GROUP * len(rows) // max(1, table.nbytes))
        with durable.replacing(path) as temporary:
            how = {"compression": "zstd", "write_page_checksum": True, "write_statistics": False}
            pq.write_table(table, temporary, row_group_size=group, **how)

    def write_errors(self, errors: Mapping[str, str]) -> None:
        """Write the reasons, by id, why rows cannot be encoded, for readers that wait for these rows."""
        sealed.write_json(self.folder / f"{address(*sorted(errors))}{ERRORS}", dict(errors))

    def read(self, places: Iterable[Place], column: str) -> list[Any]:
        """The values at ``places``, each verified by its digest; a row group is decoded once for all its rows. Where a
        value is not the one that was written, the file is set aside, and Damaged is raised."""
        by_group: dict[tuple[str, int], list[tuple[int, Place]]] = {}
        count = 0
        for count, place in enumerate(places, 1):
            by_group.setdefault((place.file, place.group), []).append((count - 1, place))
        values_read: list[Any] = [None] * count
        for (name, group), group_places in by_group.items():
            with self._open(name) as (file, _):
                table = file.read_row_group(group, columns=[column, column + SEAL])
                values, seals = table[column], table[column + SEAL]
                for number, place in group_places:
                    if _seal(place.id, column, values[place.row]) != seals[place.row].as_py():
                        raise ValueError(f"row {place.row} of group {group} has another {column} than was written")
                    values_read[number] = values[place.row].as_py()
        return values_read

    @contextmanager
    def _open(self, name: str) -> Iterator[tuple[pq.ParquetFile, int]]:
        """Yield (open file, its size). Wrong content sets the file aside and raises Damaged; an error of the disk or
        the network passes through."""
        path = self.folder / name
        try:
            before = path.stat()
        except FileNotFoundError:
            raise Damaged(path, f"is gone; {REMEDY}") from None
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                yield file, before.st_size
        except BROKEN as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            self._set_aside(path, before)
            raise Damaged(path, f"is damaged ({type(error).__name__}: {error}); {REMEDY}") from None

    def _set_aside(self, path: Path, judged: os.stat_result) -> None:
        """Set a damaged file aside, unless another preparation has replaced it since ``judged``. On a read-only disk it
        stays."""
        try:
            now = path.stat()
            if (now.st_ino, now.st_mtime_ns) == (judged.st_ino, judged.st_mtime_ns):
                path.rename(path.with_name(path.name + ASIDE))
        except OSError as error:
            log.warning("%s could not be set aside: %s", path, error)

    def _stands(self, name: str) -> bool:
        try:
            self.places_in(name)
        except Damaged:
            return False
        return True


def ends_well(path: Path, size: int) -> bool:
    """True where a file exists, has this size, and ends as Parquet does."""
    try:
        with path.open("rb") as file:
            return file.seek(0, os.SEEK_END) == size > 4 and file.seek(size - 4) > 0 and file.read() == b"PAR1"
    except FileNotFoundError:
        return False


def _seal(id_: str, column: str, value: pa.Scalar) -> bytes:
    """Digest of a value, its column and its row's id, so that a swapped value fails as a damaged one does."""
    binary = pa.types.is_binary(value.type) or pa.types.is_large_binary(value.type)
    return sealed.digest(id_, column, value.as_buffer() if binary and value.is_valid else repr(value.as_py()))
