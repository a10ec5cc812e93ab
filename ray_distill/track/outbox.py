"""Outbox: the queue on disk of what MLflow has not received yet, in order.

The file goes when all of it was sent: a process that dies before sends again, so sending twice must do no harm.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_distill.jsonl import append_rows, read_rows, write_rows

log = logging.getLogger(__name__)
FILE = "track.jsonl"
SYSTEM_BYTES = 64 << 20  # of a waiting file: beyond it a machine's load is not kept, and all else is
SENT_BYTES = 4 << 20  # of a file that is never empty: beyond it what was sent is removed
Entry = Mapping[str, Any]
NEEDS = {
    "open": ("at", "experiment", "opening"),
    "metrics": ("at", "step", "values"),
    "tags": ("values",),
    "dataset": ("name", "source", "digest", "card"),
    "artifact": ("path", "folder"),
    "picture": ("path", "step", "at"),
    "register": ("path", "name", "alias", "id"),
    "end": ("status", "at"),
}
"""Fields of the entry of each call."""
MAPPINGS = ("opening", "values", "card")


class Outbox:
    """``add`` from any thread, the rest from the one that sends. Without a folder it is in memory alone."""

    def __init__(self, folder: Path | None) -> None:
        self.path = folder / FILE if folder else None
        self._lock, self._warned = threading.Lock(), False
        self._waiting: deque[Entry] = deque(_kept(self.path) if self.path else ())
        self._bytes, self._sent_bytes = sum(map(_size, self._waiting)), 0
        self._unwritten: list[Entry] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, entry: Entry, dispensable: bool = False, first: bool = False) -> None:
        """Keep ``entry``, plain JSON types; a disk that takes nothing costs a warning, and it waits in memory.

        ``first``: it is sent before all that waits.
        """
        with self._lock:
            if dispensable and self._bytes > SYSTEM_BYTES:
                return
            self._bytes += _size(entry)
            (self._waiting.appendleft if first else self._waiting.append)(entry)
            if self.path is not None:
                self._unwritten.append(entry)
                self._write()

    def first(self) -> Entry | None:
        return self._waiting[0] if self._waiting else None

    def ahead(self, most: int) -> list[Entry]:
        """The next entries, of the first one's kind."""
        with self._lock:
            entries: list[Entry] = []
            for entry in self._waiting:
                if len(entries) == most or entry["call"] != self._waiting[0]["call"]:
                    break
                entries.append(entry)
            return entries

    def of(self, call: str) -> list[Entry]:
        """All that wait of this kind."""
        with self._lock:
            return [entry for entry in self._waiting if entry["call"] == call]

    def sent(self, count: int = 1) -> None:
        """The first ``count`` entries are MLflow's now."""
        with self._lock:
            size = sum(_size(self._waiting.popleft()) for _ in range(count))
            self._bytes, self._sent_bytes = self._bytes - size, self._sent_bytes + size
            if not self._waiting or self._sent_bytes > SENT_BYTES:
                self._shrink()

    def postpone(self) -> None:
        """Send the first entry after all others."""
        with self._lock:
            self._waiting.rotate(-1)

    def forget(self, call: str) -> None:
        """Leave out what waits of this kind."""
        with self._lock:
            self._waiting = deque(entry for entry in self._waiting if entry["call"] != call)
            self._bytes = sum(map(_size, self._waiting))

    def _shrink(self) -> None:
        """The file without what was sent; whoever reads one that could not be written sends that again."""
        self._sent_bytes = 0
        if self.path is None:
            return
        try:
            if self._waiting:
                write_rows(self.path, self._waiting)
            else:
                self.path.unlink(missing_ok=True)
            self._unwritten = []
        except OSError as error:
            self._warn(error)

    def _write(self) -> None:
        assert self.path is not None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_rows(self.path, self._unwritten)
            self._unwritten = []
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            log.warning("%s takes nothing (%s): what MLflow misses waits in memory", self.path, error)


def _kept(path: Path) -> list[Entry]:
    """The entries of a file; those that no call of ours wrote so are warned about and left out."""
    entries = read_rows(path, "call")
    whole: list[Entry] = [entry for entry in entries if _is_whole(entry)]
    if len(whole) < len(entries):
        log.warning(
            "%s: entries that are damaged, or of another version, are left out: %d", path, len(entries) - len(whole)
        )
    return whole


def _is_whole(entry: Entry) -> bool:
    needs = NEEDS.get(entry["call"]) if isinstance(entry["call"], str) else None
    if needs is None or any(name not in entry for name in needs):
        return False
    return all(isinstance(entry[name], Mapping) for name in needs if name in MAPPINGS)


def _size(entry: Entry) -> int:
    """Bytes of its line."""
    return len(json.dumps(entry)) + 1
