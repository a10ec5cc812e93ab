"""Read and write JSON lines and JSON documents that survive full disks and torn lines.

A warning names the damage, which is then repaired: a damaged line is removed from its file, a damaged document is set
aside as ``NAME.damaged``. Neither prevents a run from starting.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_distill import durable

log = logging.getLogger(__name__)
Row = dict[str, Any]
DAMAGED = ".damaged"


def read_rows(path: Path, *required: str, mend: bool = True) -> list[Row]:
    """The rows of a JSON-lines file, each an object with all ``required`` keys; an empty list where there is no file.

    A warning names the numbers of damaged lines, and they are removed from the file; where the file system refuses
    that, a second warning says so. A row that was appended to a torn line is still read. Without ``mend`` the file
    stays as it is: another process may be writing its last line.
    """
    content = path.read_bytes() if path.is_file() else b""
    rows: list[Row] = []
    damaged: list[int] = []
    for number, line in enumerate(content.split(b"\n"), 1):
        row = _row(line, required)
        if row is None and line.strip():
            damaged.append(number)
            row = _row_at_the_end(line, required)
        if row is not None:
            rows.append(row)
    if damaged:
        shown = ", ".join(map(str, damaged[:10])) + (", ..." if len(damaged) > 10 else "")
        done = "left out and removed" if mend else "left out"
        log.warning("%s: torn or damaged lines are %s: %s (%d in all)", path, done, shown, len(damaged))
        try:
            if mend:
                write_rows(path, rows)
        except OSError as error:
            log.warning("%s cannot be mended (%s)", path, error)
    return rows


def append_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append all ``rows`` or none, each on its own line even after a torn line; OSError where the disk refuses them."""
    if not rows:
        return
    lines = "".join(f"{json.dumps(dict(row))}\n" for row in rows).encode()
    with path.open("ab+", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            if before and os.pread(file.fileno(), 1, before - 1) != b"\n":
                _write(file.fileno(), b"\n")
            _write(file.fileno(), lines)
        except OSError:
            os.ftruncate(file.fileno(), before)
            raise


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace a JSON-lines file by one of ``rows``. OSError where the disk refuses it; the old file then stays."""
    durable.write(path, "".join(f"{json.dumps(dict(row))}\n" for row in rows))


class Series:
    """A JSON-lines file whose rows wait in memory while the disk refuses them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting: list[Mapping[str, Any]] = []

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append ``rows``, and those that still wait. A failing disk never raises: the first failure is logged as a
        warning."""
        warned = bool(self.waiting)
        self.waiting += rows
        try:
            append_rows(self.path, self.waiting)
            self.waiting = []
        except OSError as error:
            if not warned:
                log.warning("%s takes no rows (%s); they wait in memory", self.path, error)

    def cut(self, step: int) -> None:
        """Remove the rows of ``step`` and of later ones. A failing disk costs a warning."""
        self.waiting = [row for row in self.waiting if row["step"] < step]
        try:
            write_rows(self.path, [row for row in read_rows(self.path, "step") if row["step"] < step])
        except OSError as error:
            log.warning("%s keeps rows of steps that were trained again (%s)", self.path, error)


def read_document(path: Path, *required: str, mend: bool = True) -> Row:
    """The JSON object in a file; an empty one where there is no file.

    A file without an object that has all ``required`` keys (empty, torn, full of zeros) is set aside as
    ``NAME.damaged``, with a warning; without ``mend`` it stays where it is.
    """
    if not path.is_file():
        return {}
    content = path.read_bytes()
    document = _row(content, required)
    if document is not None:
        return document
    if not mend:
        log.warning("%s is torn or damaged (%d bytes) and not used", path, len(content))
        return {}
    aside = path.with_name(path.name + DAMAGED)
    try:
        path.replace(aside)
    except OSError as error:
        log.warning(
            "%s is torn or damaged (%d bytes) and not used; nor can it be renamed: %s", path, len(content), error
        )
    else:
        log.warning("%s is torn or damaged (%d bytes) and not used; it is kept as %s", path, len(content), aside)
    return {}


def write_document(path: Path, document: Any) -> None:
    """Replace a file by ``document`` as JSON; a reader sees either the whole old document or the whole new one."""
    durable.write(path, f"{json.dumps(document, indent=2)}\n")


def _row(line: bytes, required: Sequence[str]) -> Row | None:
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError):  # ValueError includes UnicodeDecodeError
        return None
    return row if isinstance(row, dict) and all(key in row for key in required) else None


def _row_at_the_end(line: bytes, required: Sequence[str]) -> Row | None:
    """The row that was appended to a torn one. An inner object is no candidate, since its row's brace follows it."""
    start = line.find(b'{"', 1)
    while start > 0:
        if (row := _row(line[start:], required)) is not None:
            return row
        start = line.find(b'{"', start + 1)
    return None


def _write(descriptor: int, content: bytes) -> None:
    """Write all of ``content``: a disk that fills up accepts a part first, and refuses the rest."""
    while content:
        content = content[os.write(descriptor, content) :]
