"""Find the files of a cache's clips, so that their pixels can be decoded again."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from ray_distill.data.prepare.listing import entries
from ray_distill.data.source import Source
from ray_distill.data.store.cache import Cache
from ray_distill.data.store.tables import unequal


def clip_rows(source: Source, cache: Cache) -> list[dict[str, Any]]:
    """A row for each of the cache's clips whose file ``source`` still has, with its ``path`` and the size of samples,
    as stages.Decode reads it. ValueError where no file is left."""
    paths = {(entry.dataset, entry.video): entry.path for entry in entries(source)}
    clips = unequal(cache.index.filter(pa.array(cache.choices > 0)), video="")
    clips = clips.select(["dataset", "video", "number", "content"])
    size = {"height": source.height, "width": source.width}
    pairs = ((row, paths.get((row["dataset"], row["video"]))) for row in clips.to_pylist())
    rows = [row | size | {"path": path} for row, path in pairs if path]  # files of a run's clips may be gone
    if not rows:
        raise ValueError("data: none of the cache's clips is in its sources any more; set evaluate.metric=null")
    return rows
