"""Places of a transformer's files within its source, and of what this machine remembers about files."""

from __future__ import annotations

import os
from pathlib import Path

FIRST, SECOND = "transformer", "transformer_2"
"""A pipeline's folders: of its transformer (with two experts, the one of high noise), and of the expert of low
noise."""


def transformer_folder(source: Path) -> Path:
    """``source``/transformer; ``source`` itself where it is a pipeline's second transformer."""
    return source if source.name == SECOND else source / FIRST


def memory() -> Path:
    """This package's folder in the user's cache folder, $XDG_CACHE_HOME, else ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "ray_distill"
