"""A cache of two shapes, written without encoders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from ray_distill.data.store.cache import Cache, write
from ray_distill.data.store.parquet import Store
from ray_distill.models.conditions import collate, from_bytes
from ray_distill.models.spec import Field, Fields

FIELDS = {"text": Field((4, 5), padding="zeros")}
SHAPES = [(2, 3, 2, 2), (2, 3, 2, 4)]
LENGTH, WIDTH = 4, 5
NEGATIVE, NULL = (np.full((LENGTH, WIDTH), value, dtype=np.float32) for value in (-1, -2))


def latents(number: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(number).standard_normal(shape, dtype=np.float32)


def text(number: int) -> np.ndarray:
    """The states of one to three tokens; the encoder's padding is not stored."""
    return np.random.default_rng(1000 + number).standard_normal((1 + number // 10 % 3, WIDTH), dtype=np.float32)


def conditions(cache: Cache, numbers: Sequence[int], fields: Fields = FIELDS) -> dict[str, np.ndarray]:
    """The Cond of rows of one shape."""
    rows = zip(cache.conditions(numbers, fields), cache.shapes(numbers), strict=True)
    cond = collate([from_bytes(row, fields, shape) for row, shape in rows], fields)
    return {name: (value.float() if value.dtype == torch.bfloat16 else value).numpy() for name, value in cond.items()}


def make(folder: Path, numbers: list[list[int]], passes: list[float] | None = None) -> Cache:
    """Write a cache with ``numbers`` rows of each shape; dataset 0 has the rows below 50, dataset 1 the others."""
    clips, texts = Store(folder / "latents" / "codec"), Store(folder / "text" / "encoder")
    rows = [(number, shape) for shape, those in zip(SHAPES, numbers, strict=False) for number in those]
    for half in (rows[::2], rows[1::2]):
        clips.write([{"id": str(number), "latents": latents(number, shape).tobytes()} for number, shape in half])
    texts.write([{"id": str(number), "text": text(number).tobytes()} for number, _ in rows])
    index = []
    for number, shape in sorted(rows):
        places = {"latents": clips.find([str(number)])[0], "text": texts.find([str(number)])[0]}
        index.append(
            {"id": str(number), "dataset": number // 50, "video": f"{number}.mp4", "shape": list(shape)}
            | {"caption": f"caption {number % 20}"}
            | {f"{kind}_{part}": value for kind, place in places.items() for part, value in place._asdict().items()}
        )
    card = {
        "latent_shape": SHAPES[0],
        "datasets": [{"passes": often} for often in passes or [1.0, 1.0]],
        "latents": "codec",
        "text": "encoder",
    }
    write(folder / "key", pa.Table.from_pylist(index), card, {"negative": NEGATIVE, "null": NULL})
    return Cache(folder / "key")
