"""Read a store while clips are added to it, so that training need not wait for all of them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from ray_distill import sealed
from ray_distill.data.store.parquet import ERRORS, Place, Store
from ray_distill.data.store.tables import rows_of
from ray_distill.sealed import Damaged

log = logging.getLogger(__name__)
LOOK_S, WAIT_S = 0.1, 1800.0
"""Seconds between looks, and seconds without a new row after which a reader gives up."""


class Growing:
    """The places of the rows that a store has so far; each of its files is opened once."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.seen: set[str] = set()
        self.places: dict[str, Place] = {}
        self.errors: dict[str, str] = {}

    def look(self) -> bool:
        """Read new files; True if there were any."""
        names = {name for name in os.listdir(self.store.folder)} if self.store.folder.is_dir() else set()
        new = sorted(name for name in names - self.seen if not name.startswith("."))
        for name in new:
            try:
                if name.endswith(ERRORS):
                    self.errors |= sealed.read_json(self.store.folder / name)
                elif name.endswith(".parquet"):
                    self.places |= {row["id"]: Place(**row) for row in rows_of(self.store.places_in(name))}
            except Damaged as damaged:
                log.warning("%s", damaged)
                if not (self.store.folder / name).exists():
                    names.discard(name)  # once it is written anew, a later look reads it again
        self.seen |= names
        return bool(new)

    def of(self, ids: Iterable[str]) -> list[Place]:
        """The places of ``ids``; KeyError for an id without one."""
        listed = list(ids)
        if any(id_ not in self.places for id_ in listed):
            self.look()
        return [self.places[id_] for id_ in listed]

    def wait_for(self, ids: Iterable[str]) -> None:
        """Wait until each of ``ids`` has a place or an error; TimeoutError after ``WAIT_S`` seconds without a new
        file."""
        missing, last = set(ids), time.monotonic()
        while missing := {id_ for id_ in missing if id_ not in self.places and id_ not in self.errors}:
            if self.look():
                last = time.monotonic()
            elif time.monotonic() - last > WAIT_S:
                raise TimeoutError(
                    f"{self.store.folder}: nothing was added for {WAIT_S:.0f} s, and {len(missing)} clips are waited "
                    "for: do the encoders of data.stream have CPUs or GPUs beside the training?"
                )
            else:
                time.sleep(LOOK_S)


@lru_cache(maxsize=4)
def growing(folder: Path) -> Growing:
    """The one :class:`Growing` that this process has for the store at ``folder``."""
    return Growing(folder)
