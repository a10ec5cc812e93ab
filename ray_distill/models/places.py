"""Places of a transformer's files within its source."""

from __future__ import annotations

from pathlib import Path

FIRST, SECOND = "transformer", "transformer_2"
"""Folders of a pipeline: of its transformer, or of its experts of high and of low noise."""


def transformer_folder(source: Path) -> Path:
    """``source``/transformer; ``source`` itself where it is a pipeline's second transformer."""
    return source if source.name == SECOND else source / FIRST
