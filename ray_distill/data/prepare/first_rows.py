"""Read the first rows of each dataset, in bounded time, and refuse a source without one usable row."""

from __future__ import annotations

import time
from pathlib import PurePosixPath

from ray_distill.data.prepare.listing import check, entries_of
from ray_distill.data.read.remote import is_remote, version
from ray_distill.data.source import Dataset, Source

SECONDS = 5.0
"""Seconds for all datasets together."""
ROWS = 50_000
"""Most rows, names or members of a dataset."""
WHOLE = 64 << 20
"""Most bytes of a file that can only be read whole: a remote file, or a JSON list."""


class Budget:
    """Limit on the rows read of one dataset: a call is true for the first ``ROWS`` rows, and false after time
    ``end``."""

    def __init__(self, end: float) -> None:
        self.end, self.left, self.spent = end, ROWS, False

    def __call__(self) -> bool:
        self.left -= 1
        self.spent = self.spent or self.left < 0 or time.monotonic() > self.end
        return not self.spent


def check_rows(source: Source, seconds: float = SECONDS) -> None:
    """ValueError where a dataset is missing, empty or of another kind, or where no dataset has a usable row.

    The check opens no video. It leaves to the preparation the rows beyond ``seconds`` or ``ROWS``, and folders in an
    object store, whose names come in one list.
    """
    check(source)
    end, usable, faults = time.monotonic() + seconds, False, list[str]()
    for number, part in enumerate(source.parts):
        more = Budget(end)
        if not _is_bounded(part):
            usable = True
            continue
        for entry in entries_of(source, number, more):
            if not entry.error:
                usable = True
                break
            faults.append(entry.error)
        usable = usable or more.spent
    if not usable:
        raise ValueError(f"data: none of its {len(faults)} clips can be used ({source.title}); the first: {faults[0]}")


def _is_bounded(part: Dataset) -> bool:
    """True where the first rows of a dataset can be read without reading all of it."""
    if is_remote(part.place) and part.kind in ("videos", "shards", "latents"):
        return False
    if is_remote(part.place) or PurePosixPath(str(part.place)).suffix.lower() == ".json":
        size, _ = version(str(part.place)) or (0, 0)
        return size <= WHOLE
    return True
