"""Which cache a source came to, so that nothing is opened to find it again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ray_distill.data.cache import CARD, Cache
from ray_distill.data.listing import Entry
from ray_distill.data.made import Models
from ray_distill.data.remote import version
from ray_distill.data.source import Source
from ray_distill.data.store import address


def known(source: Source, models: Models, listed: Sequence[Entry]) -> Cache | None:
    """The cache that this source came to before, if none of its files has another size or time since."""
    path = _memo(source, models, listed)
    cache = Cache(source.cache_dir / path.read_text()) if path.is_file() else None
    return cache if cache and (cache.folder / CARD).is_file() else None


def remember(source: Source, models: Models, listed: Sequence[Entry], cache: Cache) -> None:
    path = _memo(source, models, listed)
    path.parent.mkdir(exist_ok=True)
    path.write_text(cache.folder.name)


def _memo(source: Source, models: Models, listed: Sequence[Entry]) -> Path:
    settings = source.model_dump(mode="json", exclude={"cache_dir", "encode_batch", "encoders", "encoder_gpus"})
    files = [(entry.dataset, entry.video, entry.caption, entry.error, version(entry.path)) for entry in listed]
    teachers = [models.transformer(part.teacher) for part in source.parts if part.teacher]
    made_by = models.codec, models.encoder, models.multiple, teachers
    return source.cache_dir / "known" / address(settings, files, *made_by)
