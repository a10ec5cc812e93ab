"""The cache of encoded clips: parquet rows of latents and text embeddings, addressed by what they were made from.

<cache_dir>/<key>/  rows/*.parquet   id, video, caption, latents, text, error ("" where the clip is good)
                    prompts.safetensors   the negative prompt's embedding; its metadata hold latent_shape
                    quarantine.jsonl      the clips that were skipped, each with its reason
                    card.json             counts and settings, written last: a folder without it is unfinished
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load_file

CARD = "card.json"
PROMPTS = "prompts.safetensors"


@lru_cache(maxsize=4)
def index_of(folder: Path) -> list[tuple[int, str, int, int, int]]:
    rows = []
    for path in sorted((folder / "rows").glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=["id", "dataset", "error"]).to_pydict()
                told = enumerate(zip(*table.values(), strict=True))
                rows += [(id_, str(path), group, row, part) for row, (id_, part, error) in told if error == ""]
    # A row that two attempts of one write task left behind twice is one row.
    return sorted({row[0]: row for row in rows}.values())


@dataclass(frozen=True)
class Cache:
    """A finished cache. Rows are numbered by the order of their content ids, whatever wrote them in which order."""

    folder: Path

    @cached_property
    def card(self) -> dict[str, Any]:
        card: dict[str, Any] = json.loads((self.folder / CARD).read_text())
        return card

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        c, t, h, w = self.card["latent_shape"]
        return c, t, h, w

    @cached_property
    def uncond(self) -> np.ndarray:
        """The negative prompt's embedding [L, D], fp32."""
        return load_file(self.folder / PROMPTS)["negative"]

    @property
    def index(self) -> list[tuple[int, str, int, int, int]]:
        """(id, file, row group, row, number of its dataset) of each good row, by id."""
        return index_of(self.folder)

    @property
    def passes(self) -> list[float]:
        """How often each row comes in an epoch."""
        often = [dataset["passes"] for dataset in self.card["datasets"]]
        return [often[part] for *_, part in self.index]

    def buckets(self) -> dict[tuple[int, ...], list[int]]:
        """Row numbers by latent shape."""
        return {self.latent_shape: list(range(len(self.index)))}

    def rows(self, numbers: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Rows by number; arrays come back as arrays (see ``unpack``)."""
        wanted: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for place, number in enumerate(numbers):
            _, path, group, row, _ = self.index[number]
            wanted.setdefault((path, group), []).append((place, row))
        found: dict[int, dict[str, Any]] = {}
        for (path, group), places in wanted.items():  # a row group is decoded once, however many of its rows are asked
            with pq.ParquetFile(path) as file:
                table = file.read_row_group(group, columns=list(columns)).take([row for _, row in places])
            found |= zip([place for place, _ in places], table.to_pylist(), strict=True)
        return [found[place] for place in range(len(found))]

    def text(self, rows: Sequence[dict[str, Any]]) -> np.ndarray:
        """Embeddings [B, L, D] fp32 of rows with a "text" column, padded with zeros as the text encoder pads."""
        out = np.zeros((len(rows), *self.uncond.shape), dtype=np.float32)
        for target, row in zip(out, rows, strict=True):
            tokens = np.frombuffer(row["text"], dtype=np.float32).reshape(-1, out.shape[-1])
            target[: len(tokens)] = tokens
        return out

    def latents(self, rows: Sequence[dict[str, Any]]) -> np.ndarray:
        """Latents [B, C, T, H, W] fp32 of rows with a "latents" column."""
        return np.stack([np.frombuffer(row["latents"], dtype=np.float32).reshape(self.latent_shape) for row in rows])

    def by_caption(self) -> dict[str, int]:
        """Each distinct caption, and the number of the first row that has it."""
        found: dict[str, int] = {}
        for number, row in enumerate(self.rows(range(len(self.index)), ["caption"])):
            found.setdefault(row["caption"], number)
        return found

    def captions(self) -> list[str]:
        """The distinct captions, sorted."""
        return sorted(self.by_caption())
