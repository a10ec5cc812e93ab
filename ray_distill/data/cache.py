"""What a run trains on: rows of latents and text embeddings, with the order of all samples that were kept.

<cache_dir>/latents/<codec>/*.parquet     id, latents; under the hash of file, cut, size and codec (data/store.py)
            text/<encoder>/*.parquet      id, text; under the hash of caption and encoder
            known/<hash>                  which cache a source came to, so that nothing is opened to find it again
            <key>/  index.parquet         a row a sample: dataset, video, caption, shape, and where its rows stand;
                                          behind it one for each other caption that it may come with
                    prompts.safetensors   embeddings of the negative prompt and of the empty one
                    quarantine.jsonl      what was left out: file and reason
                    contact_sheet.png     some clips as the model sees them
                    card.json             counts and settings
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file

from ray_distill.data.growing import growing
from ray_distill.data.store import Place, Store

CARD, INDEX, PROMPTS = "card.json", "index.parquet", "prompts.safetensors"
Shape = tuple[int, int, int, int]


@lru_cache(maxsize=4)
def index_of(folder: Path) -> pa.Table:
    return pq.read_table(folder / INDEX)


@dataclass(frozen=True)
class Cache:
    """A finished cache. Rows are numbered in the order of the index: that of their ids, whatever was written when."""

    folder: Path

    def __getstate__(self) -> dict[str, Any]:
        """Without what was read: each fetch task of training carries a cache."""
        return {"folder": self.folder}

    @cached_property
    def card(self) -> dict[str, Any]:
        card: dict[str, Any] = json.loads((self.folder / CARD).read_text())
        return card

    @property
    def latent_shape(self) -> Shape:
        """(C, t, h, w) of samples, and of prompts without a video."""
        c, t, h, w = self.card["latent_shape"]
        return c, t, h, w

    @property
    def streamed(self) -> bool:
        """Whether its clips are encoded while they are trained on: latents are where they are by now."""
        return bool(self.card.get("streamed", False))

    @property
    def latents_folder(self) -> Path:
        return self.folder.parent / "latents" / str(self.card["latents"])

    @cached_property
    def prompts(self) -> dict[str, np.ndarray]:
        """The embeddings [L, D] fp32 of the ``negative`` prompt and of the ``null`` one."""
        return load_file(self.folder / PROMPTS)

    @property
    def uncond(self) -> np.ndarray:
        return self.prompts["negative"]

    @property
    def index(self) -> pa.Table:
        return index_of(self.folder)

    def shapes(self, numbers: Sequence[int]) -> list[Shape]:
        """(C, t, h, w) of rows."""
        return [tuple(shape) for shape in self.index["shape"].take(list(numbers)).to_pylist()]

    def buckets(self) -> dict[Shape, list[int]]:
        """Row numbers by latent shape."""
        found: dict[Shape, list[int]] = {}
        numbers = np.flatnonzero(self.choices).tolist()
        for number, shape in zip(numbers, self.shapes(numbers), strict=True):
            found.setdefault(shape, []).append(number)
        return found

    @cached_property
    def choices(self) -> np.ndarray:
        """How many captions each row [n] may come with: its own, and those of the rows behind it, which have 0."""
        if "choices" not in self.index.column_names:  # of an earlier version
            return np.ones(len(self.index), dtype=np.int64)
        return self.index["choices"].to_numpy()

    @property
    def passes(self) -> list[float]:
        """How often each row comes in an epoch."""
        often = [dataset["passes"] for dataset in self.card["datasets"]]
        return [often[part] for part in self.index["dataset"].to_pylist()]

    def rows(self, numbers: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Rows by number, with columns of the index, and ``latents``, ``states`` and ``text`` as bytes out of their
        stores."""
        asked = self.index.take(list(numbers))
        stored_in = {"latents": "latents", "states": "latents", "text": "text"}
        values = {name: asked[name].to_pylist() for name in columns if name not in stored_in}
        for column in stored_in.keys() & set(columns):
            kind = stored_in[column]
            if kind == "latents" and self.streamed:
                there = growing(self.latents_folder).places
                places = [there[id_] for id_ in asked["id"].to_pylist()]
            else:
                stored = (asked[f"{kind}_{part}"].to_pylist() for part in Place._fields)
                places = [Place(*place) for place in zip(*stored, strict=True)]
            values[column] = Store(self.folder.parent / kind / self.card[kind]).read(places, column)
        return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]

    def text(self, rows: Sequence[dict[str, Any]]) -> np.ndarray:
        """Embeddings [B, L, D] fp32 of rows with a "text" column, padded with zeros as the text encoder pads."""
        return np.stack([padded(row["text"], self.uncond.shape) for row in rows])

    def latents(self, rows: Sequence[dict[str, Any]]) -> np.ndarray:
        """Latents [B, C, T, H, W] fp32 of rows of one shape with the columns "latents" and "shape"."""
        return np.stack([np.frombuffer(row["latents"], dtype=np.float32).reshape(row["shape"]) for row in rows])

    def by_caption(self) -> dict[str, int]:
        """Each distinct caption, and the number of the first row that has it."""
        found: dict[str, int] = {}
        for number, caption in enumerate(self.index["caption"].to_pylist()):
            found.setdefault(caption, number)
        return found

    def captions(self) -> list[str]:
        """The distinct captions, sorted."""
        return sorted(self.by_caption())


def padded(text: bytes, shape: Sequence[int]) -> np.ndarray:
    """An embedding [L, D] fp32, whose last tokens are zeros and were not stored."""
    out = np.zeros(shape, dtype=np.float32)
    tokens = np.frombuffer(text, dtype=np.float32).reshape(-1, out.shape[1])
    out[: len(tokens)] = tokens
    return out
