"""What all ranks logged, as one number a name and step (see :class:`ray_distill.types.LossTerms`), and its files."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

log = logging.getLogger(__name__)
Row = dict[str, float]


def reduced(steps: Sequence[tuple[int, Mapping[str, Tensor]]], values: Tensor) -> list[Row]:
    """``steps`` are this rank's (step, [n] values by name), ``values`` [ranks, sum of all n] those of all, in order."""
    rows, start = [], 0
    for step, logs in steps:
        row: Row = {"step": float(step)}
        for name, own in logs.items():
            number = _number(name, values[:, start : start + len(own)].flatten())
            start += len(own)
            if number is not None:
                row[name] = float(number)
        rows.append(row)
    return rows


def _number(name: str, values: Tensor) -> Tensor | None:
    if "/" in name or name.endswith(("_min", "_median")):
        values = values[~values.isnan()]
    if not len(values):
        return None
    if name.endswith("_min"):
        return values.min()
    if name.endswith("_median"):
        return values.median()
    return values.sum() if name.endswith("_count") else values.mean()


def append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add ``rows`` to a JSON-lines file, which is there from its first row on."""
    if not rows:
        return
    with path.open("a") as file:
        before = file.tell()
        try:
            file.writelines(f"{json.dumps(dict(row))}\n" for row in rows)
            file.flush()
        except OSError:
            os.truncate(path, before)  # a torn line would make one with what follows
            raise


class Series:
    """A JSON-lines file whose rows wait in memory while the disk takes none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting: list[Mapping[str, Any]] = []

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Never raises; the first failure is warned about."""
        warned = bool(self.waiting)
        self.waiting += rows
        try:
            append(self.path, self.waiting)
            self.waiting = []
        except OSError as error:
            if not warned:
                log.warning("%s takes no rows (%s); they wait in memory", self.path, error)


def stored(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file, none without one; a torn last line, of a writer that was killed, is cut off."""
    text = path.read_text() if path.is_file() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]
