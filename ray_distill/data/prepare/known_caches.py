"""Remember which cache belongs to a source, so that an unchanged source opens no file again."""

from __future__ import annotations

import logging
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from ray_distill import sealed
from ray_distill.data.encoders import Encoders
from ray_distill.data.read.remote import version
from ray_distill.data.source import Source
from ray_distill.data.store.cache import Cache
from ray_distill.data.store.parquet import address_of
from ray_distill.data.store.tables import rows_of
from ray_distill.sealed import Damaged

log = logging.getLogger(__name__)


def recall(source: Source, models: Encoders, listed: pa.Table) -> Cache | None:
    """The cache that an earlier preparation of this source made, if it is whole and every file of the source has the
    same size and time as then; else None. A warning names a damaged cache."""
    try:
        cache = Cache(source.cache_dir / sealed.read_json(memo(source, models, listed))["cache"])
        cache.check()
    except FileNotFoundError:
        return None
    except Damaged as damaged:
        log.warning("%s: the cache is built again", damaged)
        return None
    return cache


def remember(source: Source, models: Encoders, listed: pa.Table, cache: Cache) -> None:
    sealed.write_json(memo(source, models, listed), {"cache": cache.folder.name})


def memo(source: Source, models: Encoders, listed: pa.Table) -> Path:
    """Path of the file that names a source's cache; the file's name is a hash of settings, models, and the names, sizes
    and times of all files."""
    settings = source.model_dump(mode="json", exclude={"cache_dir", "encode_batch", "encoders", "encoder_gpus"})
    files = (_with_versions(row) for row in rows_of(listed))
    teachers = [models.transformer(part.teacher) for part in source.parts if part.teacher]
    made_by = settings, models.codec, models.encoder, models.multiple, teachers
    images = [models.images] if models.images else []
    sound = [models.sound] if models.sound and source.has_videos else []
    return source.cache_dir / "known" / address_of(chain(made_by, images, sound, files))


def _with_versions(row: dict[str, Any]) -> tuple[Any, ...]:
    """The values of a listed row, then the sizes and times of its files."""
    image = row.pop("image")
    return (*row.values(), version(row["path"]), *((image, version(image)) if image else ()))
