"""What MLflow has not got yet, in order, in the run's folder: neither an outage nor the end of a process loses it.

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

log = logging.getLogger(__name__)
FILE = "track.jsonl"
SYSTEM_BYTES = 64 << 20  # of a waiting file: beyond it a machine's load is not kept, and all else is
Entry = Mapping[str, Any]


class Outbox:
    """``add`` from any thread, the rest from the one that sends. Without a folder it is in memory alone."""

    def __init__(self, folder: Path | None) -> None:
        self.path = folder / FILE if folder else None
        self._lock, self._bytes, self._warned = threading.Lock(), 0, False
        self._waiting: deque[Entry] = deque(self._read())

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, entry: Entry, dispensable: bool = False) -> None:
        """Keep ``entry``, plain JSON types; a disk that takes nothing costs a warning, and it waits in memory."""
        line = f"{json.dumps(entry)}\n"
        with self._lock:
            if dispensable and self._bytes > SYSTEM_BYTES:
                return
            self._bytes += len(line)
            self._waiting.append(entry)
            if self.path is not None:
                self._write(line)

    def first(self) -> Entry | None:
        return self._waiting[0] if self._waiting else None

    def ahead(self, most: int) -> list[Entry]:
        """The next entries, of the first one's kind."""
        with self._lock:
            found: list[Entry] = []
            for entry in self._waiting:
                if len(found) == most or entry["call"] != self._waiting[0]["call"]:
                    break
                found.append(entry)
            return found

    def sent(self, count: int = 1) -> None:
        """The first ``count`` entries are MLflow's now."""
        with self._lock:
            for _ in range(count):
                self._waiting.popleft()
            if not self._waiting:
                self._bytes = 0
                if self.path is not None:
                    self.path.unlink(missing_ok=True)

    def _read(self) -> list[Entry]:
        """What an earlier process left; a torn last line, of one that was killed, was not kept yet."""
        if self.path is None or not self.path.is_file():
            return []
        text = self.path.read_text()
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            self.path.write_text(whole)
        self._bytes = len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def _write(self, line: str) -> None:
        assert self.path is not None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(line)
        except OSError as error:
            if not self._warned:
                self._warned = True
                log.warning("%s takes nothing (%s): what MLflow misses waits in memory", self.path, error)
