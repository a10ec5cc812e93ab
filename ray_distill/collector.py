"""Import large packages with the garbage collector at rest, in a fifth less time, and leave them without it.

diffusers brings 2,400 modules, whose objects live as long as the process; Python's collector would scan them again and
again while they come, and for seconds at the end.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pkgutil import resolve_name
from typing import Any


@contextmanager
def at_rest() -> Iterator[None]:
    """Stop the collector for the block. It keeps no object from later collections, as ``gc.freeze`` would: networks may
    stand beside the import, and some are free only once their cycles are collected."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def leave_at_once() -> None:
    """Let the process end without a search for garbage in its modules, which the system takes back anyway. Other
    handlers of the exit run before, if they were registered later. An actor that encoded text took 1.7 s of CPU to end,
    while the next one started."""
    atexit.register(gc.freeze)


def resolve(place: str) -> Any:
    """The object that ``place``, a ``module:name``, names; its module is imported on first use."""
    with at_rest():
        return resolve_name(place)
