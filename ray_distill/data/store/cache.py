"""Cache: a run's rows of latents and conditioning, in the order of all its samples.

<cache_dir>/latents/<codec>/*.parquet     id, latents; the id is the hash of file, cut, size and codec
            text/<encoder>/*.parquet      id, the fields of a caption; the id is the hash of caption and encoder
            images/<encoders>/*.parquet   id, the fields of a clip, where its family has some; the id is the clip's
            known/<hash>                  the cache of a source, which is found again without opening a file
            <key>/  index.parquet         one row per sample: dataset, video, caption, shape, places of its rows;
                                          then one row for each further caption of its clip
                    prompts.safetensors   embeddings of the negative prompt and of the empty prompt
                    quarantine.jsonl      clips that were left out: file and reason
                    contact_sheet.png     some clips as the model sees them
                    card.json             counts and settings, and the index's hash; written last

Each read compares a value with the digest that was written with it; a mismatch raises Damaged (``sealed.py``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_distill import durable, sealed
from ray_distill.data.store.growing import growing
from ray_distill.data.store.parquet import Place, Store, ends_well
from ray_distill.models.packed import tensor_shape
from ray_distill.models.spec import Fields, Latent, of_captions
from ray_distill.sealed import Damaged

FORMAT = 4
"""Version of the format of stores, index and card; a new number encodes all rows anew."""
KINDS = {"caption": "text", "clip": "images"}
"""Name of the store of conditioning, and its key in a card, by the kind of row to which a field belongs."""
STORED = {"float32": np.float32, "bfloat16": np.uint16}
"""numpy's types for the stored bytes of a field."""
CARD, INDEX, PROMPTS = "card.json", "index.parquet", "prompts.safetensors"
Shape = Latent


@lru_cache(maxsize=4)
def index_of(path: Path, digest: str) -> pa.Table:
    """The index at ``path``; Damaged where the file is missing, or its sha256 is not ``digest``."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise Damaged(path, "is gone") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise Damaged(path, "is not the index that its card was written with")
    return pq.read_table(pa.BufferReader(content))


def write(folder: Path, index: pa.Table, card: Mapping[str, Any], prompts: Mapping[str, np.ndarray]) -> None:
    """Write a cache into ``folder``, its card last; files of an earlier cache are replaced one by one."""
    sealed.write_tensors(folder / PROMPTS, prompts)
    with durable.replacing(folder / INDEX) as temporary:
        pq.write_table(index, temporary, compression="zstd", write_page_checksum=True)
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
    sealed.write_json(folder / CARD, {**card, "format": FORMAT, "index": digest})


def older(folder: Path) -> list[Path]:
    """The caches in ``folder``, a ``data.cache_dir``, that are damaged or of an earlier version."""
    return [path.parent for path in sorted(folder.glob(f"*/{CARD}")) if not _is_of_this_format(path)]


def _is_of_this_format(card: Path) -> bool:
    try:
        return bool(sealed.read_json(card).get("format") == FORMAT)
    except (Damaged, FileNotFoundError):
        return False


@dataclass(frozen=True)
class Cache:
    """A finished cache. Rows are numbered in the order of the index, which is sorted by their ids."""

    folder: Path

    def __getstate__(self) -> dict[str, Any]:
        """The cache without the values that it has read, since each fetch task of training carries it."""
        return {"folder": self.folder}

    @cached_property
    def card(self) -> dict[str, Any]:
        return sealed.read_json(self.folder / CARD)

    @property
    def latent_shape(self) -> Shape:
        """(C, t, h, w) of samples, and of prompts without a video."""
        return tuple(self.card["latent_shape"])

    @property
    def grows(self) -> bool:
        """True where clips are encoded while training runs, so that some latents may still be missing."""
        return bool(self.card.get("streamed", False))

    @property
    def latents_folder(self) -> Path:
        return self._folder("latents")

    @property
    def images_folder(self) -> Path | None:
        """The folder of the store of clips' fields; None where clips have no fields."""
        return self._folder(KINDS["clip"]) if self.card.get(KINDS["clip"]) else None

    @property
    def addresses(self) -> tuple[str, str, str]:
        """Addresses of latents, captions' fields and clips' fields; the last is "" where clips have no fields."""
        return self.card["latents"], self.card[KINDS["caption"]], self.card.get(KINDS["clip"], "")

    def _folder(self, kind: str) -> Path:
        return self.folder.parent / kind / str(self.card[kind])

    @cached_property
    def prompts(self) -> dict[str, np.ndarray]:
        """The fields of the ``negative`` prompt and of the ``null`` (empty) prompt, by ``prompt_key``."""
        try:
            return sealed.read_tensors(self.folder / PROMPTS)[0]
        except FileNotFoundError:
            raise Damaged(self.folder / PROMPTS, "is gone") from None

    def prompt(self, which: Literal["negative", "null"], fields: Fields) -> dict[str, bytes]:
        """The stored values of one of the two ``prompts``, by a caption's field."""
        names = of_captions(fields)
        return {name: self.prompts[prompt_key(which, name, fields)].tobytes() for name in names}

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
        """Damaged where card, index, prompts, or a store's file that the index names, has changed on disk. It reads the
        first three whole, and only the sizes and ends of the stores' files, whose rows are verified on each read."""
        if not (self.folder / CARD).is_file():
            raise Damaged(self.folder / CARD, "is gone")
        index_of.cache_clear()  # forget what this process read earlier
        self.prompts  # noqa: B018 (this access reads and verifies the file)
        if lost := self.lost():
            raise Damaged(lost[0], f"is gone, cut or damaged ({len(lost)} of the index's files are)")

    def lost(self) -> list[Path]:
        """The stores' files that the index names and that are missing, have another size, or do not end as Parquet: a
        machine that stopped before its disk had the content leaves zeros."""
        files = []
        for kind in (kind for kind in ("latents", *KINDS.values()) if self.card.get(kind)):
            files_of_kind = (
                self._index().select([f"{kind}_file", f"{kind}_size"]).group_by([f"{kind}_file", f"{kind}_size"])
            )
            for row in files_of_kind.aggregate([]).sort_by(f"{kind}_file").to_pylist():
                path, size = self._folder(kind) / row[f"{kind}_file"], row[f"{kind}_size"]
                if row[f"{kind}_file"] and not ends_well(path, size):
                    files.append(path)
        return files

    def shapes(self, numbers: Sequence[int]) -> list[Shape]:
        """(C, t, h, w) of rows."""
        return [tuple(shape) for shape in self.index["shape"].take(list(numbers)).to_pylist()]

    def buckets(self) -> dict[Shape, list[int]]:
        """Row numbers by latent shape."""
        by_shape: dict[Shape, list[int]] = {}
        numbers = np.flatnonzero(self.choices).tolist()
        for number, shape in zip(numbers, self.shapes(numbers), strict=True):
            by_shape.setdefault(shape, []).append(number)
        return by_shape

    @cached_property
    def choices(self) -> np.ndarray:
        """For each row [n] the number of captions to draw from: its own and those of the rows that follow it, which
        have 0."""
        if "choices" not in self.index.column_names:  # written by an earlier version
            return np.ones(len(self.index), dtype=np.int64)
        return self.index["choices"].to_numpy()

    @property
    def passes(self) -> list[float]:
        """Number of times that each row comes in an epoch."""
        often = [dataset["passes"] for dataset in self.card["datasets"]]
        return [often[part] for part in self.index["dataset"].to_pylist()]

    def rows(self, numbers: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Rows by number, with ``columns`` of the index, and with ``latents`` and ``states`` as bytes from their
        store."""
        index_rows = self.index.take(list(numbers))
        stored = {name for name in columns if name in ("latents", "states")}
        values = {name: index_rows[name].to_pylist() for name in columns if name not in stored}
        values |= {name: self._values("latents", index_rows, name) for name in stored}
        return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]

    def conditions(self, numbers: Sequence[int], fields: Fields) -> list[dict[str, bytes]]:
        """The conditioning of rows by number, as the stored bytes of each field."""
        index_rows = self.index.take(list(numbers))
        values = {name: self._values(KINDS[field.of], index_rows, name) for name, field in fields.items()}
        return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]

    def _values(self, kind: str, index_rows: pa.Table, column: str) -> list[bytes]:
        stored = (index_rows[f"{kind}_{part}"].to_pylist() for part in Place._fields)
        places = [Place(*place) for place in zip(*stored, strict=True)]
        if self.grows and kind != KINDS["caption"]:
            ids = index_rows["id"].to_pylist()
            later = [i for i, place in enumerate(places) if place.id in ("", ids[i])]  # a picture has another id
            for i, place in zip(later, growing(self._folder(kind)).of(ids[i] for i in later), strict=True):
                places[i] = place
        return Store(self._folder(kind)).read(places, column)

    def latents(self, rows: Sequence[dict[str, Any]]) -> np.ndarray:
        """Latents [B, C, T, H, W] fp32 of rows of one shape with the columns "latents" and "shape"."""
        return np.stack(
            [np.frombuffer(row["latents"], dtype=np.float32).reshape(tensor_shape(row["shape"])) for row in rows]
        )

    def by_caption(self) -> dict[str, int]:
        """The number of the first row of each distinct caption."""
        first_rows: dict[str, int] = {}
        for number, caption in enumerate(self.index["caption"].to_pylist()):
            first_rows.setdefault(caption, number)
        return first_rows

    def captions(self) -> list[str]:
        """The distinct captions, sorted."""
        return sorted(self.by_caption())


def prompt_key(which: str, name: str, fields: Fields) -> str:
    """The key of a prompt's field in ``prompts.safetensors``; the first field has the prompt's name alone."""
    return which if name == next(iter(of_captions(fields))) else f"{which}.{name}"


def prompt_arrays(which: str, stored: Mapping[str, bytes], fields: Fields) -> dict[str, np.ndarray]:
    """The arrays of a prompt's fields for ``prompts.safetensors``, by ``prompt_key``."""
    captions = of_captions(fields)
    arrays = {name: np.frombuffer(stored[name], STORED[field.dtype]) for name, field in captions.items()}
    return {
        prompt_key(which, name, fields): array.reshape(-1, *captions[name].shape[1:]) for name, array in arrays.items()
    }
