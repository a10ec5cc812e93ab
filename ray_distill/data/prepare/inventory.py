"""Inventory of a preparation: which clips and captions exist, and which still need encoding."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_distill.data.encoders import Encoders
from ray_distill.data.prepare.embeddings import COMPARED, ROUNDING, distance
from ray_distill.data.prepare.stages import CLIPS, EMPTY
from ray_distill.data.source import Source
from ray_distill.data.store.cache import KINDS, Shape
from ray_distill.data.store.parquet import Store, address, place_columns
from ray_distill.data.store.tables import distinct, equal, rows_of, table_of, unequal, without
from ray_distill.errors import ConfigError
from ray_distill.models.packed import tensor_shape

Row = dict[str, Any]


def ids_in(store: Store, beside: Store | None) -> pa.ChunkedArray:
    """The ids in ``store``, and in ``beside`` where it is given."""
    ids = store.places()["id"]
    return ids if beside is None else ids.filter(pc.is_in(ids, value_set=beside.places()["id"]))


class Inventory:
    """The clips and captions of a source whose files have been looked into. Each of ``rows`` (``stages.CLIPS``) is a
    clip, a prompt without a video, or an error in the place of one. ConfigError for a prompt without a picture where
    the family takes one."""

    def __init__(self, source: Source, models: Encoders, prompts: pa.Table, files: pa.Table) -> None:
        self.source, self.models = source, models
        taught = (row for prompt in rows_of(prompts) for row in self._teacher_rows(prompt))
        self.rows = pa.concat_tables([table_of(taught, CLIPS), files])
        self.latents = Store(source.cache_dir / "latents" / models.codec)
        self.text = Store(source.cache_dir / KINDS["caption"] / models.encoder)
        self.images = Store(source.cache_dir / KINDS["clip"] / models.images) if models.images else None
        self.distances: dict[int, float] = {}
        """The largest distance of a text embedding from the encoder's own, by number of dataset."""
        self._check_pictures()

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of the largest latents."""
        shapes = self.shapes(unequal(self.rows, id=""))
        return max((4 * math.prod(tensor_shape(shape)) for shape in set(shapes)), default=1)

    @property
    def sample_shape(self) -> Shape:
        """(C, t, h, w)"""
        return self.models.latent_shape(self.source.frames, self.source.height, self.source.width)

    def shapes(self, rows: pa.Table) -> list[Shape]:
        """(C, t, h, w) of each row; prompts and the teacher's clips have the shape of samples."""

        @cache
        def shape(dataset: int, height: int, width: int) -> Shape:
            if not height:
                return self.sample_shape
            return self.models.latent_shape(self.source.clips(self.source.parts[dataset]).frames, height, width)

        return [shape(**row) for row in rows_of(rows.select(["dataset", "height", "width"]))]

    def _teacher_rows(self, prompt: Row) -> list[Row]:
        """The rows of a prompt: one per clip of its teacher, or without a teacher one row without an id."""
        teacher = self.source.parts[prompt["dataset"]].teacher
        row = prompt | EMPTY | {"image_id": prompt.get("image_id") or ""}
        if teacher is None or row["error"]:
            return [row]
        recipe = teacher.model_dump(exclude={"path", "batch", "clips_per_prompt"})
        for key, unset in (("levels", ()), ("audio_guidance", None)):  # clips of earlier versions keep their ids
            if recipe[key] == unset:
                del recipe[key]
        made_of = self.models.transformer(teacher), self.models.encoder, self.source.negative_prompt, self.sample_shape
        image = [row["image_id"]] if row["image_id"] else []
        counted = range(teacher.clips_per_prompt)
        ids = [address(*made_of, recipe, prompt["caption"], *image, number) for number in counted]
        return [row | {"number": number, "id": id_} for number, id_ in enumerate(ids)]

    @cached_property
    def captions(self) -> pa.Table:
        """The distinct captions with their ids, sorted; they include the negative prompt and the empty caption."""
        good = pa.concat_tables([equal(self.rows, error="", embedding_id=""), self.compared])
        others = chain.from_iterable(map(json.loads, unequal(good, others="")["others"].to_pylist()))
        more = pa.array([*others, self.source.negative_prompt, ""], pa.string())
        captions = pc.unique(pa.chunked_array([*good["caption"].chunks, more]))
        captions = captions.take(pc.sort_indices(captions))
        ids = pa.array((address(caption.as_py()) for caption in captions), pa.string())
        return pa.table({"id": ids, "caption": captions})

    def missing_text(self) -> pa.Table:
        """The ``captions`` that their store lacks."""
        return without(self.captions, "id", self.text.places()["id"])

    @cached_property
    def compared(self) -> pa.Table:
        """The clips whose text embedding is compared with the encoder's own: of each dataset the first clips of some
        captions, from its first to its last."""
        tables = [self.rows.slice(0, 0)]
        for number in self.models.widths_of_text(self.source):
            rows = distinct(unequal(equal(self.rows, dataset=number, error=""), embedding_id=""), "caption")
            places = np.linspace(0, len(rows) - 1, min(COMPARED, len(rows))).round().astype(np.int64)
            tables.append(rows.take(pa.array(places)))
        return pa.concat_tables(tables)

    def text_ids(self, rows: pa.Table) -> pa.Array:
        """Ids of ``rows`` in the store of captions' fields: of a clip's own embedding, else of its caption."""
        own = self.captions["id"].take(pc.index_in(rows["caption"], value_set=self.captions["caption"]))
        return pc.if_else(pc.equal(rows["embedding_id"], ""), own, rows["embedding_id"])

    def compare(self, stored: Iterable[Row]) -> None:
        """Compare the ``stored`` embeddings of ``compared`` clips, rows of `ReadEmbeddings`, with the encoder's own.
        ConfigError names the clip, the distance and the remedy where they are further apart than rounding is."""
        values, field = {row["id"]: row for row in stored}, self.models.text_field
        rows = self.compared.to_pylist()
        own = self.text.read(self.text.find([address(row["caption"]) for row in rows]), field)
        for row, ours in zip(rows, own, strict=True):
            key = f"data.datasets.{row['dataset']}.text_embeddings"
            theirs = values[row["embedding_id"]]
            if theirs["error"]:
                raise ConfigError(f"{key}: {row['video']}: {theirs['error']}; prepare again")
            if (apart := distance(theirs[field], ours)) > ROUNDING:
                raise ConfigError(
                    f"{key} = true: {row['video']}: its text embedding is {apart:.2g} away from that of "
                    f"{self.models.path}/text_encoder for {row['caption'][:60]!r}, relative to its norm, and "
                    f"{ROUNDING:g} at most is rounding: another encoder made it, or of another text. Use false, and "
                    "all captions are encoded anew, or give the model.path whose encoder made the embeddings"
                )
            self.distances[row["dataset"]] = max(apart, self.distances.get(row["dataset"], 0.0))

    def missing_embeddings(self) -> pa.Table:
        """Clips with the distinct text embeddings that their store lacks."""
        rows = distinct(unequal(equal(self.rows, error=""), embedding_id=""), "embedding_id")
        return without(rows, "embedding_id", self.text.places()["id"])

    def missing_clips(self) -> pa.Table:
        """The distinct clips that their stores lack."""
        clips = distinct(equal(unequal(self.rows, id="", video=""), error=""), "id")
        return without(clips, "id", ids_in(self.latents, self.images))

    def missing_teacher_clips(self, dataset: int) -> pa.Table:
        """The clips of a dataset's teacher that their store lacks, each with the places of its conditioning."""
        prompts = equal(unequal(self.rows, id=""), dataset=dataset, error="")
        rows, captions = without(distinct(prompts, "id"), "id", self.latents.places()["id"]), self.captions
        texts = captions["id"].take(pc.index_in(rows["caption"], value_set=captions["caption"]))
        table = pa.table({"id": rows["id"]})
        stores = [(KINDS["caption"], texts, self.text)]
        if self.images is not None:
            stores.append((KINDS["clip"], self.image_ids(rows), self.images))
        for kind, ids, store in stores:
            places = place_columns(ids, store.places())
            for name in places.column_names:
                table = table.append_column(f"{kind}_{name}", places[name])
        return table

    def missing_pictures(self) -> pa.Table:
        """The distinct pictures that the store of clips' fields lacks."""
        if self.images is None:
            return self.rows.slice(0, 0)
        pictures = distinct(equal(unequal(self.rows, image_id=""), error=""), "image_id")
        return without(pictures, "image_id", self.images.places()["id"])

    def image_ids(self, rows: pa.Table) -> pa.Array:
        """Ids of ``rows`` in the store of clips' fields: the picture's id where a row has one, else the clip's own."""
        own = pc.if_else(pc.equal(rows["video"], ""), "", rows["id"])
        return pc.if_else(pc.equal(rows["image_id"], ""), own, rows["image_id"])

    def _check_pictures(self) -> None:
        """ConfigError for pictures that the network ignores, and for prompts without a picture where the network needs
        one."""
        for number, part in enumerate(self.source.parts):
            alone = equal(self.rows, dataset=number, error="", video="", image_id="")
            if self.images is not None and len(alone):
                raise ConfigError(
                    f"data: {part.name!r} has prompts alone, and this pipeline takes a picture with each; name their "
                    "column as image_column, give datasets with videos, or a text-to-video pipeline"
                )
            if self.images is None and part.image_column is not None:
                raise ConfigError(
                    f"data: {part.name!r} has image_column = {part.image_column!r}, and this pipeline makes videos of "
                    "text alone; remove it, or give an image-to-video pipeline (Wan 2.2 5B, LTX-2: "
                    "model.from_image=true)"
                )

    def mark_failed(self, errors: Mapping[str, str], ids: str = "id") -> None:
        """Write ``errors`` into the rows of clips that could not be decoded, or whose picture or text embedding could
        not, with ``ids`` = "image_id" or "embedding_id"."""
        if errors:
            reasons = pa.array(errors.values(), pa.string())
            reasons = reasons.take(pc.index_in(self.rows[ids], value_set=pa.array(errors, pa.string())))
            error = self.rows["error"]
            error = pc.if_else(pc.equal(error, ""), pc.fill_null(reasons, ""), error)
            self.rows = self.rows.set_column(self.rows.column_names.index("error"), "error", error)
