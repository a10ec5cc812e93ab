"""Outbox: the queue on disk of entries that MLflow has not received yet, in order.

The outbox removes its file once all of it was sent. After a process that dies earlier the next one sends it again, so
sending twice must do no harm.
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
SYSTEM_BYTES = 64 << 20  # of a waiting file: beyond it the outbox drops metrics of a machine's load, and nothing else
SENT_BYTES = 4 << 20  # of a file that is never empty: beyond it the outbox removes sent entries
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
"""Fields of each call's entry."""
MAPPINGS = ("opening", "values", "card")


class Outbox:
    """Queue whose ``add`` any thread may call, and whose other methods only the sending thread. Without a folder it is
    in memory only."""

    def __init__(self, folder: Path | None) -> None:
        self.path = folder / FILE if folder else None
        self._lock, self._warned = threading.Lock(), False
        self._waiting: deque[Entry] = deque(_kept(self.path) if self.path else ())
        self._bytes, self._sent_bytes = sum(map(_size, self._waiting)), 0
        self._unwritten: list[Entry] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, entry: Entry, dispensable: bool = False, first: bool = False) -> None:
        """Keep ``entry``, plain JSON types; if the disk takes nothing, the entry waits in memory, with a warning.

        ``first`` puts it before all waiting entries.
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
        """Next entries of the first entry's kind."""
        with self._lock:
            entries: list[Entry] = []
            for entry in self._waiting:
                if len(entries) == most or entry["call"] != self._waiting[0]["call"]:
                    break
                entries.append(entry)
            return entries

    def of(self, call: str) -> list[Entry]:
        """All waiting entries of ``kind``."""
        with self._lock:
            return [entry for entry in self._waiting if entry["call"] == call]

    def sent(self, count: int = 1) -> None:
        """Remove the first ``count`` entries, which MLflow has taken."""
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
        """Drop all waiting entries of ``kind``."""
        with self._lock:
            self._waiting = deque(entry for entry in self._waiting if entry["call"] != call)
            self._bytes = sum(map(_size, self._waiting))

    def _shrink(self) -> None:
        """Rewrite the file without the sent entries; if that fails, the next process sends them again."""
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
            log.warning("%s cannot be written (%s): calls that MLflow misses wait in memory", self.path, error)


def _kept(path: Path) -> list[Entry]:
    """Entries of a file, without damaged ones and those of another version, each with a warning."""
    entries = read_rows(path, "call")
    whole: list[Entry] = [entry for entry in entries if _is_whole(entry)]
    if len(whole) < len(entries):
        log.warning(
            "%s: number of entries left out, which are damaged or of another version: %d",
            path,
            len(entries) - len(whole),
        )
    return whole


def _is_whole(entry: Entry) -> bool:
    needs = NEEDS.get(entry["call"]) if isinstance(entry["call"], str) else None
    if needs is None or any(name not in entry for name in needs):
        return False
    return all(isinstance(entry[name], Mapping) for name in needs if name in MAPPINGS)


def _size(entry: Entry) -> int:
    """Bytes of the entry's line."""
    return len(json.dumps(entry)) + 1
