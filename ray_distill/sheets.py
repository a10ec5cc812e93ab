"""Contact sheets: one PNG with rows of video frames, each row under its title."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ray_distill import durable

INK, RULE, PAPER = "#1f2430", "#dfe2e8", "#ffffff"
MARGIN, GAP, BETWEEN, HEAD, LINE = 24, 4, 28, 44, 22
"""Pixels of the sheet's margin, between frames, between columns and rows, of the headings' row, of a title's row."""
MAGNIFIED = 96
"""Frames with fewer rows of pixels are magnified by a whole factor, which keeps their pixels sharp."""
CUT = 360
"""Most characters of a title: Pillow refuses to measure a million."""

Video = np.ndarray
"""uint8 [T, H, W, 3]"""


def contact_sheet(
    path: Path,
    rows: Sequence[tuple[str, Sequence[Video]]],
    headings: Sequence[str] = (),
    *,
    frames: int = 3,
    edge: int | None = None,
) -> None:
    """Write a PNG with the title of each of ``rows``, and below it ``frames`` frames of each video, from first to last.

    ``headings`` name the columns, in one line or two; with headings, each row needs as many videos as there are
    headings. A frame whose longer side exceeds ``edge`` is shrunk to ``edge``.
    """
    strips = [[_strip(video, frames, edge) for video in videos] for _, videos in rows]
    widths = [max(strip.width for strip in column) for column in zip(*strips, strict=True)]
    lefts = [MARGIN + sum(widths[:column]) + column * BETWEEN for column in range(len(widths))]
    heights = [LINE + max(strip.height for strip in row) + BETWEEN for row in strips]
    head = (HEAD + LINE * any("\n" in heading for heading in headings)) if headings else 0
    width = lefts[-1] + widths[-1] + MARGIN
    sheet = Image.new("RGB", (width, MARGIN + head + sum(heights) - BETWEEN + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    text, bold = ImageFont.load_default(15), ImageFont.load_default(17)
    for heading, left, across in zip(headings, lefts, widths, strict=False):
        first, _, second = heading.partition("\n")
        draw.text((left, MARGIN), fit_text(draw, first, bold, across), INK, bold)
        draw.text((left, MARGIN + LINE), fit_text(draw, second, text, across), INK, text)
        draw.line((left, MARGIN + head - 15, left + across - 1, MARGIN + head - 15), RULE, 2)
    top = MARGIN + head
    for (title, _), row, height in zip(rows, strips, heights, strict=True):
        draw.text((MARGIN, top), fit_text(draw, title, text, width - 2 * MARGIN), INK, text)
        for strip, left in zip(row, lefts, strict=True):
            sheet.paste(strip, (left, top + LINE))
        top += height
    with durable.replacing(path) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)


def _strip(video: Video, frames: int, edge: int | None) -> Image.Image:
    """Frames of one video side by side, in a strip with room for ``frames``, even where the video has fewer."""
    times = np.linspace(0, len(video) - 1, min(frames, len(video))).round().astype(int)
    _, height, width, _ = video.shape
    if edge is not None and max(height, width) > edge:
        factor, way = edge / max(height, width), Image.Resampling.BOX
    else:
        factor, way = max(1, math.ceil(MAGNIFIED / height)), Image.Resampling.NEAREST
    width, height = max(1, round(width * factor)), max(1, round(height * factor))
    strip = Image.new("RGB", (frames * width + (frames - 1) * GAP, height), PAPER)
    for place, time in enumerate(times):
        strip.paste(Image.fromarray(video[time]).resize((width, height), way), (place * (width + GAP), 0))
    return strip


def fit_text(draw: ImageDraw.ImageDraw, text: str, font: Any, width: int) -> str:
    """``text`` as one line of at most ``width`` pixels; a cut text ends with an ellipsis."""
    text = " ".join(text[:CUT].split())
    while draw.textlength(text, font) > width and len(text) > 1:
        text = text[:-2].rstrip() + "…"
    return text
