"""Clips whose files have no sound, or sound for a part of the clip: name them, and count them in the cache's card."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ray_distill.data.source import Source
from ray_distill.data.store.parquet import Place, Store
from ray_distill.data.store.tables import rows_of

log = logging.getLogger(__name__)
SILENT = "silent.jsonl"
SHORT = 0.05
"""Seconds without sound that count as none: a track ends up to a frame of its codec before the picture."""


def silent_clips(source: Source, store: Store, rows: pa.Table, places: Sequence[Place]) -> list[dict[str, Any]]:
    """The clips among ``rows`` (columns dataset, video and number) that are silent for more than ``SHORT`` seconds,
    each with the share of it in which its file has sound. ``places`` are those of the rows in ``store``."""
    clips = [source.clips(part) for part in source.parts]
    silent = []
    for row, heard in zip(rows_of(rows), store.read(places, "heard"), strict=True):
        clip = clips[row["dataset"]]
        if (1 - heard) * clip.frames / clip.fps > SHORT:
            silent.append({"file": row["video"], "clip": row["number"], "heard": round(heard, 3)})
    return silent


def counts(silent: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Numbers for a card: clips without any sound, and clips with sound for a part."""
    without = sum(clip["heard"] == 0 for clip in silent)
    return {"silent": without, "partly_silent": len(silent) - without}


def lines(silent: Sequence[Mapping[str, Any]]) -> str:
    """The content of silent.jsonl; a warning says how many clips there are, and names the first."""
    if silent:
        names = ", ".join(clip["file"] for clip in silent[:5]) + (", ..." if len(silent) > 5 else "")
        log.warning(
            "%d clips have no sound or sound for a part, and train silence: %s (%s)", len(silent), names, SILENT
        )
    return "".join(json.dumps(clip, ensure_ascii=False) + "\n" for clip in silent)
