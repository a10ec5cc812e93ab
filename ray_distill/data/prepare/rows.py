"""Read the rows of a manifest or a prompts file: JSON lines, a JSON list, CSV, parquet or text."""

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
"""File name endings of manifests; prompts may also be plain text."""
MARKUP = (".yaml", ".yml", ".toml", ".xml", ".html")
"""File name endings of text whose lines are no prompts."""
CONTENT = "holds no text: videos are read from files and from members of .tar shards, not from a table's cells"
Line = tuple[int, str, str]
"""(number, text, the reason why the line is no text)"""


@dataclass(frozen=True, slots=True)
class Row:
    """A row at ``where`` ("line 3") with its ``value``, or with the ``fault`` that leaves it without one. ``alien``:
    the text belongs to another kind of file."""

    where: str
    value: Any = None
    fault: str = ""
    alien: bool = False


def rows_in(place: Path | str, columns: Sequence[str], more: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of a file, with the ``columns``, and with those of ``more`` that it has; each line of plain text is a
    row. An unreadable row becomes a fault, and the other rows are read.

    ValueError where the file as a whole is no table.
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
            raise ValueError(
                f"{suffix} is not supported; write {', '.join(TABLES)}, or plain text with one prompt per line"
            )
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
    """An open file. A remote file is first read whole, so that a broken connection can be retried."""
    return again(place, lambda: pa.BufferReader(read(place)) if is_remote(place) else open_at(place))


def _is_list(place: Path | str) -> bool:
    """True where a .json holds one list, false for JSON lines."""
    with _open(place) as file:
        return next((text for text, _ in lines_of(file) if text.strip()), "").lstrip().startswith("[")


def _csv(lines: Iterator[Line], columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a CSV; a quoted value may span several lines. The delimiter is the one of comma, semicolon and tab
    that gives a header with all ``columns``."""
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
            fault = f"{len(values)} values for {len(names)} columns; put a value that has a {delimiter!r} in quotes"
        yield Row(f"line {number}", None if fault else dict(zip(names, values, strict=True)), fault)


def _records(lines: Iterator[Line], delimiter: str) -> Iterator[tuple[int, list[str], str]]:
    """(number of the first line, values, fault) of each record. A quote that is never closed costs its own line, not
    all later lines."""
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
            yield Row("row 1", dict.fromkeys(names))  # the caller refuses the file, since columns are missing
            return
        if struct := next((name for name in present if pa.types.is_struct(file.schema_arrow.field(name).type)), ""):
            raise ValueError(f"{struct!r} {CONTENT}")  # Hugging Face's datasets store bytes beside a name
        present += [name for name in more if name in names]
        batches = file.iter_batches(columns=present)
        tables = (pa.table([as_bytes(batch[name]) for name in present], present) for batch in batches)
        for number, row in enumerate(chain.from_iterable(map(rows_of, tables)), 1):
            try:
                yield Row(f"row {number}", {name: _decode(value) for name, value in row.items()})
            except NotText as error:
                inside = next((name for name, value in row.items() if isinstance(value, bytes) and b"\0" in value), "")
                yield Row(f"row {number}", fault=f"{inside!r} {CONTENT}" if inside else str(error))


def as_bytes(column: pa.Array) -> pa.Array:
    """A column of text as bytes, since Arrow assumes that a file's text is UTF-8 without a check."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return as_bytes(column.dictionary_decode())  # a cast would check UTF-8 in all rows at once
    if pa.types.is_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.binary())
    if pa.types.is_large_string(kind):
        return column.cast(pa.large_binary())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = as_bytes(pa.array([], kind.value_type)).type
        return column.cast(pa.list_(inner) if pa.types.is_list(kind) else pa.large_list(inner))
    return column


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(each) for each in value]
    return text_of(value) if isinstance(value, bytes) else value
