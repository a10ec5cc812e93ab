"""Contact sheet of some clips as the model sees them: cut, turned, resized, cropped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ray_distill import durable

ROWS, COLUMNS, EDGE, LINE = 12, 4, 160, 16
CUT = 90
"""Characters of a title."""


def some(count: int) -> list[int]:
    """Up to ``ROWS`` numbers below ``count``, evenly apart."""
    return sorted({round(number) for number in np.linspace(0, count - 1, min(ROWS, count))})


def sheet(path: Path, clips: Sequence[tuple[str, np.ndarray]]) -> None:
    """A row a clip (its title, uint8 [T, H, W, 3]): frames from the first to the last, none larger than ``EDGE``."""
    rows = [_row(title, frames) for title, frames in clips]
    canvas = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        canvas.paste(row, (0, top))
        top += row.height
    with durable.replacing(path) as temporary:
        canvas.save(temporary, "png")


def _row(title: str, frames: np.ndarray) -> Image.Image:
    times = np.linspace(0, len(frames) - 1, min(COLUMNS, len(frames))).round().astype(int)
    _, height, width, _ = frames.shape
    factor = EDGE / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    row = Image.new("RGB", (COLUMNS * (EDGE + 4), size[1] + LINE + 6), "white")
    text = f"{_short(title)}  [{len(frames)} x {height} x {width}]"
    ImageDraw.Draw(row).text((2, 1), text, fill="black", font=ImageFont.load_default(11))
    for column, time in enumerate(times):
        picture = Image.fromarray(frames[time]).resize(
            size, Image.Resampling.BOX if factor < 1 else Image.Resampling.NEAREST
        )
        row.paste(picture, (column * (EDGE + 4), LINE))
    return row


def _short(title: str) -> str:
    """One line of the sheet's width: Pillow breaks at line ends, and refuses a million characters."""
    line = " ".join(title[: 4 * CUT].split())
    return line if len(line) <= CUT else f"{line[: CUT - 3]}..."
