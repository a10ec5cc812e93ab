"""Read the text embeddings that FastVideo's preprocessing wrote beside latents, and tell how far they are from others.

A row has the bytes, shape [tokens, D] or [1, tokens, D] and dtype of the embedding of its caption (docs/fastvideo.md
names the source of the format). Zeros behind its last token are padding. Nothing in a row tells the encoder, so that
``prepare`` compares some rows with the run's own encoder (`distance`). No model library here, and no torch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_distill.data.prepare.foreign import Columns, fault_of_dtype, is_bytes, is_numbers, is_text, read_again
from ray_distill.data.prepare.stages import Batch, Row
from ray_distill.data.store.parquet import address

BYTES, SHAPE, DTYPE = "text_embedding_bytes", "text_embedding_shape", "text_embedding_dtype"
FACTS = (SHAPE, DTYPE)
"""Columns that can be read without the embedding."""
COLUMNS: Columns = {
    BYTES: (is_bytes, "bytes"),
    SHAPE: (is_numbers, "lists of whole numbers"),
    DTYPE: (is_text, "text"),
}
COMPARED = 8
"""Most captions of a dataset that the run's encoder encodes as well, to compare them."""
ROUNDING = 0.05
"""Largest `distance` that counts as rounding. The same encoder in bf16 is 0.02 off fp32 over 24 layers, one other word
among 40 is 0.3 off, and another caption or another encoder 1 and more."""


def fault_of_facts(row: Row, width: int) -> str:
    """The reason why a row with ``FACTS`` gives no embedding of ``width`` numbers a token; "" if there is none."""
    if fault := fault_of_dtype(row[DTYPE], "its text embedding is"):
        return fault
    own = _shape(row)
    if len(own) != 2 or None in own or own[1] != width:
        spelt = "x".join(map(str, row[SHAPE] or ())) or "without a shape"
        return f"its text embedding is {spelt}, and text_encoder gives tokens x {width}"
    return ""


def _shape(row: Row) -> tuple[int, ...]:
    own = tuple(row[SHAPE] or ())
    return own[1:] if len(own) == 3 and own[0] == 1 else own


def tokens_of(row: Row, width: int) -> np.ndarray:
    """The embedding [tokens, width] fp32 of a row, without its padding. ValueError for a row without one, for another
    number of bytes, and for values that are not finite."""
    if fault := fault_of_facts(row, width):
        raise ValueError(fault)
    own, data = _shape(row), row[BYTES] or b""
    if len(data) != 4 * math.prod(own):
        raise ValueError(f"its text embedding has {len(data)} bytes, and float32 of {own[0]}x{own[1]} another number")
    tokens = np.frombuffer(data, "<f4").reshape(own)
    if not np.isfinite(tokens).all():
        raise ValueError("its text embedding is not finite")
    length = 1 + max(np.flatnonzero(tokens.any(axis=1)), default=-1)
    if not length:
        raise ValueError("its text embedding is empty")
    return np.ascontiguousarray(tokens[:length], np.float32)


def embedding_id(tokens: np.ndarray) -> str:
    """The id of an embedding in the store of captions' fields, where an encoder's own rows have their captions' ids."""
    return address("stored embedding", hashlib.sha256(tokens.tobytes()).hexdigest(), tokens.shape)


def distance(stored: bytes, own: bytes) -> float:
    """|stored - own| / |own|, the relative distance of two embeddings of one caption; infinite for another number of
    tokens."""
    if len(stored) != len(own):
        return math.inf
    theirs, ours = (np.frombuffer(value, np.float32).astype(np.float64) for value in (stored, own))
    return float(np.linalg.norm(theirs - ours)) / max(float(np.linalg.norm(ours)), 1e-30)


@dataclass(frozen=True)
class ReadEmbeddings:
    """Clips of `LookLatents` -> the embeddings of their captions as rows of the store of captions' fields. An embedding
    that has changed since then is empty, and the reason is in ``error``, which is "" for others.

    ``widths`` are the numbers of a token by number of dataset, ``field`` is the name of a caption's field."""

    widths: Mapping[int, int]
    field: str

    def __call__(self, rows: Batch) -> Iterator[dict[str, Any]]:
        yield from read_again(rows, COLUMNS, self._encoded, "embedding_id", {self.field: b"", "length": 0, "tokens": 0})

    def _encoded(self, clip: Row, row: Row) -> dict[str, Any] | None:
        try:
            tokens = tokens_of(row, self.widths[int(clip["dataset"])])
        except ValueError:
            return None
        if embedding_id(tokens) != clip["embedding_id"]:
            return None
        stored = {self.field: [tokens.tobytes()], "length": [len(tokens)], "tokens": [int(clip["tokens"])]}
        return {"id": [clip["embedding_id"]], "error": [""], **stored}
