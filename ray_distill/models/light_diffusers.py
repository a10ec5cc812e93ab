"""Import diffusers without packages that a process does not use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

UNUSED = ("peft", "transformers", "scipy")
"""Packages that diffusers imports beside its networks where it finds them: 1,070 modules, 90 MiB and half of its CPU
time. They serve adapters, pipelines and schedulers."""


@contextmanager
def hidden(*packages: str) -> Iterator[None]:
    """Let ``packages`` count as missing. diffusers and transformers note what they find once for each process, so this
    is for a process with one kind of work; it may import the packages itself afterwards. No other thread may import
    them meanwhile."""
    absent = [name for name in packages if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]  # as the language defines it: not found
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def import_networks() -> None:
    """Import diffusers' networks with ``UNUSED`` hidden, in a process that trains without adapters, or samples."""
    with hidden(*UNUSED):
        import diffusers.models.transformers  # noqa: F401
