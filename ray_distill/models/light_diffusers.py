"""Import diffusers' networks without the packages that no network uses."""

from __future__ import annotations

import sys

UNUSED = ("peft", "transformers", "scipy")
"""Packages that diffusers imports beside its networks where it finds them: 1,070 modules, 90 MiB and half of its CPU
time. They serve adapters, pipelines and schedulers."""


def import_networks() -> None:
    """Import diffusers' networks, and hide ``UNUSED`` meanwhile. diffusers notes what it finds once for each process,
    so this is for a process that trains without adapters, or samples; it may import the packages itself afterwards. No
    other thread may import them meanwhile."""
    hidden = [name for name in UNUSED if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # as the language defines it: not found
    try:
        import diffusers.models.transformers  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]
