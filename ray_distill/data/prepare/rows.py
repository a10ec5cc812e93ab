"""Read the rows of a manifest or a file of prompts: JSON lines or list, CSV, parquet, text."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import parquet

from ray_distill.data.read.remote import again, is_remote, open_at, read
from ray_distill.data.store.tables import rows_of
from ray_distill.plaintext import NotText, json_of, lines_of, list_of, text_of

TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""Endings of a manifest; prompts may be plain text, too."""
MARKUP = (".yaml", ".yml", ".toml", ".xml", ".html")
"""Endings of text whose lines are no prompts."""
Line = tuple[int, str, str]
"""Number, text, and the reason why it is no text."""


@dataclass(frozen=True, slots=True)
class Row:
    """``value`` of row ``where`` ("line 3"); ``fault`` is the reason why it has none. ``alien``: its text belongs to
    another kind of file."""

    where: str
    value: Any = None
    fault: str = ""
    alien: bool = False


def rows_in(place: Path | str, columns: Sequence[str], more: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of a file, with the ``columns`` and those of ``more`` that it has; a row of plain text is a line. An
    unreadable row is a fault, and the others are read.

    ValueError where the file as a whole is no such table.
    """
    match PurePosixPath(str(place)).suffix.lower():
        case ".parquet":
            yield from _parquet(place, columns, more)
        case ".csv" | ".tsv":
            yield from _csv(_lines(place), columns)
        case ".json" if _is_list(place):
            for number, (value, fault) in enumerate(list_of(read(place)), 1):
                yield Row(f"entry {number}", value, fault)
        case suffix if suffix in MARKUP:
            raise ValueError(f"{suffix} is not read; write {', '.join(TABLES)}, or plain text with a prompt a line")
        case suffix:
            parse = json_of if suffix in TABLES else str.strip
            yield from (_parse(parse, *line) for line in _lines(place) if line[1].strip())


def _parse(parse: Any, number: int, text: str, fault: str) -> Row:
    where = f"line {number}"
    try:
        return Row(where, fault=fault) if fault else Row(where, parse(text))
    except ValueError as error:
        return Row(where, fault=str(error), alien=True)


def _lines(place: Path | str) -> Iterator[Line]:
    with _open(place) as file:
        for number, (text, fault) in enumerate(lines_of(file), 1):
            yield number, text, fault


def _open(place: Path | str) -> BinaryIO:
    """An open file. A remote one is read whole first, so that a broken connection can be tried again."""
    return again(place, lambda: pa.BufferReader(read(place)) if is_remote(place) else open_at(place))


def _is_list(place: Path | str) -> bool:
    """True where a .json is one list, and no JSON lines."""
    with _open(place) as file:
        return next((text for text, _ in lines_of(file) if text.strip()), "").lstrip().startswith("[")


def _csv(lines: Iterator[Line], columns: Sequence[str]) -> Iterator[Row]:
    """Rows of a CSV. Values may span several lines, within quotes. The delimiter is the comma, semicolon or tab for
    which the header has ``columns``."""
    first = next((line for line in lines if line[1].strip()), None)
    if first is None:
        return
    number, header, fault = first
    if fault:
        raise ValueError(f"line {number}: {fault}")
    headers = {sign: [name.strip() for name in next(csv.reader([header], delimiter=sign), [])] for sign in ",;\t"}
    delimiter = next((sign for sign, names in headers.items() if set(columns) <= set(names)), ",")
    names = headers[delimiter]
    if twice := [name for name in columns if names.count(name) > 1]:
        raise ValueError(f"line {number}: two columns are called {twice[0]!r}")
    for number, values, fault in _records(lines, delimiter):
        if not fault and len(values) != len(names):
            fault = f"{len(values)} values for {len(names)} columns; one with a {delimiter!r} in it stands in quotes"
        yield Row(f"line {number}", None if fault else dict(zip(names, values, strict=True)), fault)


def _records(lines: Iterator[Line], delimiter: str) -> Iterator[tuple[int, list[str], str]]:
    """Each record: its first line, values and fault. A quote that is never closed costs its own line, not all that
    follow."""
    ahead: deque[Line] = deque()

    def feed(record: list[Line]) -> Iterator[str]:
        while (line := ahead.popleft() if ahead else next(lines, None)) is not None:
            record.append(line)
            yield f"{line[1]}\n"

    while True:
        record: list[Line] = []
        try:
            values = next(csv.reader(feed(record), delimiter=delimiter, strict=True, skipinitialspace=True), None)
            fault = next((fault for _, _, fault in record if fault), "")
        except csv.Error as error:
            values, fault = [], f"no valid CSV: {error}; is a quote not closed or not doubled?"
            ahead.extendleft(reversed(record[1:]))
        if values is None:
            return
        if values or fault:
            yield record[0][0], values, fault


def _parquet(place: Path | str, columns: Sequence[str], more: Sequence[str]) -> Iterator[Row]:
    with _open(place) as source, parquet.ParquetFile(source) as file:
        names = file.schema_arrow.names
        present = [name for name in columns if name in names]
        if len(present) < len(columns):
            yield Row("row 1", dict.fromkeys(names))  # the caller refuses it by its columns
            return
        present += [name for name in more if name in names]
        batches = file.iter_batches(columns=present)
        tables = (pa.table([_as_bytes(batch[name]) for name in present], present) for batch in batches)
        for number, row in enumerate(chain.from_iterable(map(rows_of, tables)), 1):
            try:
                yield Row(f"row {number}", {name: _decode(value) for name, value in row.items()})
            except NotText as error:
                yield Row(f"row {number}", fault=str(error))


def _as_bytes(column: pa.Array) -> pa.Array:
    """Text as its bytes: Arrow takes a file's text for UTF-8, unchecked."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _as_bytes(column.dictionary_decode())  # a cast would check UTF-8, in all rows at once
    if pa.types.is_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.binary())
    if pa.types.is_large_string(kind):
        return column.cast(pa.large_binary())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = _as_bytes(pa.array([], kind.value_type)).type
        return column.cast(pa.list_(inner) if pa.types.is_list(kind) else pa.large_list(inner))
    return column


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(each) for each in value]
    return text_of(value) if isinstance(value, bytes) else value
