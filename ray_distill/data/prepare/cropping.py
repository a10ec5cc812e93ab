"""The parts of files that no sample shows: of their pictures by the crop, and of their length."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from ray_distill.data.source import Source
from ray_distill.data.store.tables import rows_of, unequal

Row = dict[str, Any]


def cropped(source: Source, rows: pa.Table) -> dict[str, Any]:
    """Shares of the pictures that the crop cuts away, on average and at most, and the seconds of clips beside those of
    their files; {} where no clip has pixels."""
    away: list[float] = []
    kept, files = 0.0, dict[tuple[int, str], float]()
    for row in rows_of(unequal(rows, header="")):
        video, clips = json.loads(row["header"])[0], source.clips(source.parts[row["dataset"]])
        away.append(_share(row, video) if clips.crop else 0.0)
        cut = clips.cut(row["number"])
        kept += cut.frames * cut.stride / (cut.fps or video["rate"])
        files[row["dataset"], row["video"]] = video["seconds"]
    if not away:
        return {}
    shares = {"mean": round(sum(away) / len(away), 4), "most": round(max(away), 4)}
    return {"cropped": shares, "seconds": {"clips": round(kept, 1), "files": round(sum(files.values()), 1)}}


def _share(row: Row, video: Row) -> float:
    """The share of a picture's area outside its centre crop."""
    aspects = video["width"] * video["pixel_aspect"] / video["height"], row["width"] / row["height"]
    return 1 - min(aspects) / max(aspects)
