"""Text in aligned columns."""

from __future__ import annotations

from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]], align: str = "", widest: int | None = None) -> str:
    """``rows`` as lines of cells, two spaces apart. ``align`` has ``<`` or ``>`` for each column; its last sign holds
    for all further columns, and an empty ``align`` means left. A cell longer than ``widest`` pushes the rest of its
    line."""
    count = max((len(row) for row in rows), default=0)
    sides = (align or "<").ljust(count, (align or "<")[-1])
    widths = [min(max(len(row[i]) for row in rows), widest or 1 << 30) for i in range(count)]
    return "\n".join(
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=False)).rstrip()
        for row in rows
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str = "<>") -> str:
    """``rows`` in :func:`columns` below ``head`` and a rule; by default only the first column is aligned left."""
    rule = ["-" * max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return columns([head, rule, *rows], align)
