"""Places of a transformer's files within its source."""

from __future__ import annotations

from pathlib import Path

FIRST, SECOND = "transformer", "transformer_2"
"""A pipeline's folders: of its transformer (with two experts, the one of high noise), and of the expert of low
noise."""


def transformer_folder(source: Path) -> Path:
    """``source``/transformer; ``source`` itself where it is a pipeline's second transformer."""
    return source if source.name == SECOND else source / FIRST
