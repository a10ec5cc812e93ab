"""From what the stores hold to the cache of a run: which samples there are, what was left out, and why."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from ray_distill.data.cache import CARD, INDEX, PROMPTS, Cache, Shape, padded
from ray_distill.data.listing import Entry
from ray_distill.data.source import Source
from ray_distill.data.store import Place, Store, address
from ray_distill.models.codec import outline
from ray_distill.models.loading import folder_hash, patch

log = logging.getLogger(__name__)
Row = dict[str, Any]
FORMAT = 2
"""Of stores and index: a new number makes all rows anew."""
QUARANTINE = "quarantine.jsonl"


@dataclass(frozen=True)
class Models:
    """The pipeline folder that codec and text encoder come from, and what they make of clips."""

    family: str
    path: Path
    max_sequence_length: int
    int8_text: bool = False

    @cached_property
    def codec(self) -> str:
        return address(FORMAT, folder_hash(self.path / "vae"))

    @cached_property
    def encoder(self) -> str:
        parts = [folder_hash(self.path / part) for part in ("text_encoder", "tokenizer")]
        return address(FORMAT, parts, self.max_sequence_length, *(["int8"] if self.int8_text else []))

    @cached_property
    def multiple(self) -> tuple[int, int]:
        """What height and width must be multiples of: the codec's stride times the transformer's patch."""
        (_, height, width), (patch_height, patch_width) = (
            outline(self.path / "vae").stride,
            patch(self.family, self.path),
        )
        return height * patch_height, width * patch_width

    def latent_shape(self, frames: int, height: int, width: int) -> Shape:
        return outline(self.path / "vae").latent_shape(frames, height, width)


class Made:
    """A source whose files were looked into: ``rows``, each a clip, a prompt alone, or the error in its place."""

    def __init__(self, source: Source, models: Models, rows: list[Row]) -> None:
        self.source, self.models, self.rows = source, models, rows
        self.latents = Store(source.cache_dir / "latents" / models.codec)
        self.text = Store(source.cache_dir / "text" / models.encoder)

    @cached_property
    def row_bytes(self) -> int:
        """Of the largest latents."""
        return max((4 * int(np.prod(self.shape(row))) for row in self.rows if row["id"]), default=1)

    def shape(self, row: Row) -> Shape:
        """(C, t, h, w); a prompt alone has that of samples."""
        clips = self.source.clips(self.source.parts[row["dataset"]]) if row["id"] else self.source
        size = (row["height"], row["width"]) if row["id"] else (clips.height, clips.width)
        return self.models.latent_shape(clips.frames, *size)

    def missing_text(self) -> list[Row]:
        """The distinct captions, the negative prompt and the empty one, that are not in their store."""
        captions = {self.source.negative_prompt, "", *(row["caption"] for row in self.rows if not row["error"])}
        stored = self.text.places()
        rows = [{"id": address(caption), "caption": caption} for caption in sorted(captions)]
        return [row for row in rows if row["id"] not in stored]

    def missing_clips(self) -> list[Row]:
        """The distinct clips that are not in their store."""
        stored = self.latents.places()
        wanted = {row["id"]: row for row in self.rows if row["id"] and not row["error"]}
        return [row for id_, row in wanted.items() if id_ not in stored]

    def failed(self, errors: Mapping[str, str]) -> None:
        """Clips that could not be decoded."""
        for row in self.rows:
            row["error"] = row["error"] or errors.get(row["id"], "")


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
    files = [(entry.dataset, entry.video, entry.caption, entry.error, _stat(entry.path)) for entry in listed]
    return source.cache_dir / "known" / address(settings, files, models.codec, models.encoder, models.multiple)


def _stat(path: str) -> tuple[int, int] | None:
    try:
        told = os.stat(path)
        return told.st_size, told.st_mtime_ns
    except (OSError, ValueError):
        return None


def finish(made: Made) -> Cache:
    """The cache's folder, whole or not there; ValueError where nothing is left."""
    source, clips, texts = made.source, made.latents.places(), made.text.places()
    bad = [row for row in made.rows if row["error"]]
    reasons = [{"file": row["video"], "reason": _reason(row)} for row in sorted(bad, key=lambda row: row["video"])]
    quarantine = "".join(json.dumps(reason, ensure_ascii=False) + "\n" for reason in reasons)
    for row in reasons:
        log.warning("left out %s: %s", row["file"], row["reason"])
    # Equal lines of a dataset are one row; the order is that of their content.
    good = {(row["id"], address(row["caption"]), row["dataset"]): row for row in made.rows if not row["error"]}
    if not good:
        source.cache_dir.mkdir(parents=True, exist_ok=True)
        (source.cache_dir / QUARANTINE).write_text(quarantine)
        raise ValueError(
            f"data: none of its {len(bad)} clips can be used ({source.title}); "
            f"the reasons are in {source.cache_dir / QUARANTINE}"
        )
    index = [_indexed(made, row, clips.get(row["id"], Place("", -1, -1)), texts) for _, row in sorted(good.items())]
    card = _card(made, index, bad)
    key = address(
        *((row["id"], row["caption"], card["datasets"][row["dataset"]]["passes"]) for row in index),
        made.models.codec,
        made.models.encoder,
        source.negative_prompt,
        card["latent_shape"],
    )
    cache = Cache(source.cache_dir / key[:16])
    if not (cache.folder / CARD).is_file():
        _write(made, cache, index, card, quarantine, texts)
    return cache


def _reason(row: Row) -> str:
    reason: str = row["error"]
    return reason.removeprefix(f"{row['path']}: ").removeprefix(f"{row['video']}: ")


def _indexed(made: Made, row: Row, clip: Place, texts: Mapping[str, Place]) -> Row:
    text = texts[address(row["caption"])]
    kept = ("id", "dataset", "video", "caption", "number", "height", "width")
    places = {
        f"{kind}_{name}": value
        for kind, place in (("latents", clip), ("text", text))
        for name, value in place._asdict().items()
    }
    return {name: row[name] for name in kept} | {"shape": list(made.shape(row))} | places


def _card(made: Made, index: Sequence[Row], bad: Sequence[Row]) -> dict[str, Any]:
    """Counts and settings."""
    source = made.source
    counts = [sum(row["dataset"] == number for row in index) for number in range(len(source.parts))]
    datasets = zip(source.parts, counts, source.passes(counts), strict=True)
    return {
        "clips": len(index),
        "skipped": len(bad),
        "reasons": dict(Counter(re.sub(r"\d[\d.]*", "N", _reason(row)) for row in bad)),
        "captions": len({row["caption"] for row in index}),
        "latent_shape": list(made.models.latent_shape(source.frames, source.height, source.width)),
        "buckets": dict(Counter("x".join(map(str, row["shape"])) for row in index)),
        "datasets": [
            {"name": part.name, "place": str(part.place), "rows": count, "passes": often}
            for part, count, often in datasets
        ],
        "latents": made.models.codec,
        "text": made.models.encoder,
    }


def told(card: Mapping[str, Any]) -> str:
    """A cache in one line."""
    buckets = ", ".join(f"{count} of {shape}" for shape, count in card["buckets"].items())
    return f"{card['clips']} kept, {card['skipped']} left out; latents C x t x h x w: {buckets}"


def _write(
    made: Made, cache: Cache, index: Sequence[Row], card: Row, quarantine: str, texts: Mapping[str, Place]
) -> None:
    temporary = cache.folder.with_name(f".{cache.folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(list(index)), temporary / INDEX, compression="zstd")
    asked = [texts[address(caption)] for caption in (made.source.negative_prompt, "")]
    negative, null = made.text.read(asked, "text")
    length = made.text.read(asked[:1], "length")[0]
    shape = made.models.max_sequence_length, len(negative) // (4 * length)
    save_file({"negative": padded(negative, shape), "null": padded(null, shape)}, temporary / PROMPTS)
    (temporary / QUARANTINE).write_text(quarantine)
    (temporary / CARD).write_text(json.dumps(card, indent=2))
    try:
        temporary.rename(cache.folder)
    except OSError:  # another preparation was faster, with equal content
        shutil.rmtree(temporary)
