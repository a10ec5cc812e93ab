"""Read latents that FastVideo's preprocessing wrote into parquet, as clips without pixels.

A row has the bytes, shape [C, T, H, W] and dtype of a clip's latents as its VAE gives them, before their normalisation,
and a caption (docs/fastvideo.md names the source of the format). Ray Data maps `LookLatents` and `ReadLatents` over
files: no model library here, and no torch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ray_distill.data.prepare import embeddings
from ray_distill.data.prepare.foreign import (
    Columns,
    fault_of_dtype,
    is_bytes,
    is_numbers,
    is_text,
    opened,
    read_again,
    rows_of_file,
)
from ray_distill.data.prepare.stages import EMPTY, Batch, Row
from ray_distill.data.read.clip import BadClip
from ray_distill.data.read.remote import local, version
from ray_distill.data.store.cache import Shape
from ray_distill.data.store.parquet import address
from ray_distill.plaintext import NotText, blank, text_of

Statistics = tuple[Sequence[float], Sequence[float]]
"""(mean, std) of each latent channel."""
BYTES, SHAPE, DTYPE, CAPTION = "vae_latent_bytes", "vae_latent_shape", "vae_latent_dtype", "caption"
FACTS = (SHAPE, DTYPE, CAPTION)
"""Columns that can be read without the latents."""
COLUMNS: Columns = {
    BYTES: (is_bytes, "bytes"),
    SHAPE: (is_numbers, "lists of whole numbers"),
    DTYPE: (is_text, "text"),
    CAPTION: (is_text, "text"),
}


def fault_of_row(row: Row, shape: Shape) -> str:
    """The reason why a row with ``FACTS`` gives no latents of ``shape`` (C, t, h, w); "" if there is none."""
    try:
        caption = None if row[CAPTION] is None else text_of(row[CAPTION])
    except NotText as error:
        return f"its caption is no text: {error}"
    if caption is None or blank(caption):
        return "no caption; if the preprocessing dropped it, give the captions, and use data.caption_dropout"
    if fault := fault_of_dtype(row[DTYPE], "its latents are"):
        return fault
    own = tuple(row[SHAPE] or ())
    if len(own) != 4 or None in own or own[0] != shape[0] or own[1] < shape[1] or own[2:] != shape[2:]:
        return (
            f"its latents are {_spelt(own)}, and this run needs C x t x h x w = {_spelt(shape)}, t or more; "
            "set data.frames, data.height and data.width to those of the preprocessing"
        )
    return ""


def _spelt(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "without a shape"


def columns_of(width: int | None) -> Columns:
    """The columns of a file; its text embeddings are read where they have a ``width``."""
    return COLUMNS if width is None else {**COLUMNS, **embeddings.COLUMNS}


def first_faults(path: str, shape: Shape, width: int | None = None) -> Iterator[tuple[str, str]]:
    """("row 1", its fault, "" for a good row) of each row of a file, without reading its latents; for a file that
    cannot be used ("", its fault). With the ``width`` of text embeddings these are checked as well."""
    facts = FACTS if width is None else (*FACTS, *embeddings.FACTS)
    try:
        with opened(path, columns_of(width)) as file:
            for number, row in rows_of_file(file, facts):
                fault = fault_of_row(row, shape)
                yield f"row {number + 1}", fault or ("" if width is None else embeddings.fault_of_facts(row, width))
    except BadClip as bad:
        yield "", bad.reason


def normalise(row: Row, shape: Shape, statistics: Statistics) -> np.ndarray:
    """Latents fp32 of ``shape`` (C, t, h, w): the first t frames of the row's, (x - mean) / std by channel. The codec
    is causal, so that they are the latents of the clip's first frames. ValueError for another number of bytes, and for
    values that are not finite."""
    own, data = tuple(row[SHAPE]), row[BYTES] or b""
    if len(data) != 4 * math.prod(own):
        raise ValueError(f"{len(data)} bytes, and float32 of {_spelt(own)} have {4 * math.prod(own)}")
    mean, std = (np.asarray(each, np.float32)[:, None, None, None] for each in statistics)
    raw = np.frombuffer(data, "<f4").reshape(own)[:, : shape[1]]
    with np.errstate(over="ignore", invalid="ignore"):
        latents = (raw - mean) / std
    if not np.isfinite(latents).all():
        raise ValueError("its latents are not finite")
    return np.ascontiguousarray(latents, np.float32)


def _content(row: Row) -> str:
    return hashlib.sha256(f"{row[SHAPE]}".encode() + row[BYTES]).hexdigest()


@dataclass(frozen=True)
class LookLatents:
    """A file -> its rows as clips, each with its caption, its number and an id; a row or a file that cannot be used has
    the reason in ``error``.

    ``shapes`` are the latent shapes (C, t, h, w) by number of dataset; ``size`` is (height, width) of samples.
    ``widths`` are the numbers of a token, by number of each dataset whose rows bring their text embedding: such a clip
    has its ``embedding_id``, and the ``tokens`` that are stored.
    """

    shapes: Mapping[int, Shape]
    statistics: Statistics
    size: tuple[int, int]
    widths: Mapping[int, int] = field(default_factory=dict)

    def __call__(self, entry: Row) -> list[Row]:
        if entry["error"]:
            return [entry | EMPTY]
        try:
            with local(entry["path"]) as path:
                before = version(path)
                rows = [
                    entry | EMPTY | self._clip(entry, number, row) for number, row in self._read(path, entry["dataset"])
                ]
                if version(path) != before:
                    raise BadClip(entry["path"], "was replaced while it was read")
        except BadClip as bad:
            return [entry | EMPTY | {"error": str(bad)}]
        return rows or [entry | EMPTY | {"error": f"{entry['path']}: no row in it"}]

    def _read(self, path: str, dataset: int) -> Iterator[tuple[int, Row]]:
        columns = columns_of(self.widths.get(dataset))
        with opened(path, columns) as file:
            yield from rows_of_file(file, [*columns])

    def _clip(self, entry: Row, number: int, row: Row) -> Row:
        shape, video = self.shapes[entry["dataset"]], f"{entry['video']}, row {number + 1}"
        fault, text = fault_of_row(row, shape), dict[str, Any]()
        if not fault:
            try:
                normalise(row, shape, self.statistics)
                if (width := self.widths.get(entry["dataset"])) is not None:
                    tokens = embeddings.tokens_of(row, width)
                    text = {"embedding_id": embeddings.embedding_id(tokens), "tokens": len(tokens)}
            except ValueError as error:
                fault = str(error)
        if fault:
            return {"video": video, "number": number, "error": f"{entry['path']}: {fault}"}
        content = _content(row)
        where = {"video": video, "number": number, "height": self.size[0], "width": self.size[1]}
        return (
            where
            | text
            | {
                "caption": text_of(row[CAPTION]).strip(),
                "content": content,
                "id": address("latents", content, shape),
            }
        )


@dataclass(frozen=True)
class ReadLatents:
    """Clips of `LookLatents` -> their normalised ``latents``, a few at a time. A clip whose row has changed since then
    has none, and the reason in ``error``, which is "" for others."""

    shapes: Mapping[int, Shape]
    statistics: Statistics

    def __call__(self, rows: Batch) -> Iterator[dict[str, Any]]:
        yield from read_again(rows, COLUMNS, self._encoded, "id", {"latents": b""})

    def _encoded(self, clip: Row, row: Row) -> dict[str, Any] | None:
        shape = self.shapes[int(clip["dataset"])]
        if row[BYTES] is None or fault_of_row(row, shape) or _content(row) != clip["content"]:
            return None
        latents = normalise(row, shape, self.statistics)
        return {"id": [clip["id"]], "error": [""], "latents": [latents.tobytes()]}
