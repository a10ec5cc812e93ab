"""Which cache a source came to, so that nothing is opened to find it again."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pyarrow as pa

from ray_distill.data.cache import CARD, Cache
from ray_distill.data.made import Models
from ray_distill.data.remote import version
from ray_distill.data.source import Source
from ray_distill.data.store import address_of
from ray_distill.data.tables import rows_of


def known(source: Source, models: Models, listed: pa.Table) -> Cache | None:
    """The cache that this source came to before, if none of its files has another size or time since."""
    path = _memo(source, models, listed)
    cache = Cache(source.cache_dir / path.read_text()) if path.is_file() else None
    return cache if cache and (cache.folder / CARD).is_file() else None


def remember(source: Source, models: Models, listed: pa.Table, cache: Cache) -> None:
    path = _memo(source, models, listed)
    path.parent.mkdir(exist_ok=True)
    path.write_text(cache.folder.name)


def _memo(source: Source, models: Models, listed: pa.Table) -> Path:
    settings = source.model_dump(mode="json", exclude={"cache_dir", "encode_batch", "encoders", "encoder_gpus"})
    files = ((*row.values(), version(row["path"])) for row in rows_of(listed))
    teachers = [models.transformer(part.teacher) for part in source.parts if part.teacher]
    made_by = settings, models.codec, models.encoder, models.multiple, teachers
    return source.cache_dir / "known" / address_of(chain(made_by, files))
