"""Cache: a run's rows of latents and text embeddings, in the order of all its samples.

<cache_dir>/latents/<codec>/*.parquet     id, latents; under the hash of file, cut, size and codec
            text/<encoder>/*.parquet      id, text; under the hash of caption and encoder
            known/<hash>                  which cache a source came to, so that nothing is opened to find it again
            <key>/  index.parquet         a row a sample: dataset, video, caption, shape, and where its rows stand;
                                          behind it one for each other caption that it may come with
                    prompts.safetensors   embeddings of the negative prompt and of the empty one
                    quarantine.jsonl      what was left out: file and reason
                    contact_sheet.png     some clips as the model sees them
                    card.json             counts and settings, and the index's hash; written last

Each value that is read is proven by a digest that was written with it; what is not, is Damaged (``sealed.py``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_distill import durable, sealed
from ray_distill.data.store.growing import growing
from ray_distill.data.store.parquet import Place, Store, ends_well
from ray_distill.sealed import Damaged

FORMAT = 4
"""Of stores, index and card: a new number makes all rows anew."""
CARD, INDEX, PROMPTS = "card.json", "index.parquet", "prompts.safetensors"
Shape = tuple[int, int, int, int]


@lru_cache(maxsize=4)
def index_of(path: Path, digest: str) -> pa.Table:
    """The index whose bytes have this sha256; Damaged where it has another or is gone."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise Damaged(path, "is gone") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise Damaged(path, "is not the one that its card was written with")
    return pq.read_table(pa.BufferReader(content))


def write(folder: Path, index: pa.Table, card: Mapping[str, Any], prompts: Mapping[str, np.ndarray]) -> None:
    """Make ``folder`` a cache, the card last; what stands there already is replaced file by file."""
    sealed.write_tensors(folder / PROMPTS, prompts)
    with durable.replacing(folder / INDEX) as temporary:
        pq.write_table(index, temporary, compression="zstd", write_page_checksum=True)
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
    sealed.write_json(folder / CARD, {**card, "format": FORMAT, "index": digest})


def older(folder: Path) -> list[Path]:
    """The caches in ``data.cache_dir`` that an earlier version has made, or that are damaged."""
    return [path.parent for path in sorted(folder.glob(f"*/{CARD}")) if not _is_of_this_format(path)]


def _is_of_this_format(card: Path) -> bool:
    try:
        return bool(sealed.read_json(card).get("format") == FORMAT)
    except (Damaged, FileNotFoundError):
        return False


@dataclass(frozen=True)
class Cache:
    """A finished cache. Rows are numbered in the order of the index: that of their ids, whatever was written when."""

    folder: Path

    def __getstate__(self) -> dict[str, Any]:
        """Without what was read: each fetch task of training carries a cache."""
        return {"folder": self.folder}

    @cached_property
    def card(self) -> dict[str, Any]:
        return sealed.read_json(self.folder / CARD)

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
        try:
            return sealed.read_tensors(self.folder / PROMPTS)[0]
        except FileNotFoundError:
            raise Damaged(self.folder / PROMPTS, "is gone") from None

    @property
    def uncond(self) -> np.ndarray:
        return self.prompts["negative"]

    @property
    def index(self) -> pa.Table:
        try:
            return self._index()
        except Damaged:
            with durable.alone(self.folder.parent):  # another preparation may just be replacing index and card
                self.__dict__.pop("card", None)
                return self._index()

    def _index(self) -> pa.Table:
        return index_of(self.folder / INDEX, self.card["index"])

    def check(self) -> None:
        """Damaged where card, index, prompts or a store's file that the index names is not what was written: read whole
        are the first three, of the files their sizes and ends. Their rows are proven when they are read."""
        if not (self.folder / CARD).is_file():
            raise Damaged(self.folder / CARD, "is gone")
        index_of.cache_clear()  # what this process has read before says nothing of the disk now
        self.prompts  # noqa: B018 (read for its own check)
        if lost := self.lost():
            raise Damaged(lost[0], f"is gone, cut or damaged ({len(lost)} of the index's files are)")

    def lost(self) -> list[Path]:
        """The stores' files that the index names and that are gone, have another size, or end as no Parquet does: in
        zeros, where a machine stopped before its disk had them."""
        found = []
        for kind in ("latents", "text"):
            named = self._index().select([f"{kind}_file", f"{kind}_size"]).group_by([f"{kind}_file", f"{kind}_size"])
            for row in named.aggregate([]).sort_by(f"{kind}_file").to_pylist():
                path, size = (self.folder.parent / kind / self.card[kind] / row[f"{kind}_file"]), row[f"{kind}_size"]
                if row[f"{kind}_file"] and not ends_well(path, size):
                    found.append(path)
        return found

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
        """Captions to choose from, for each row [n]: its own and those of the rows behind it, which have 0."""
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
