"""A source between its files and its cache: what is there, and what has to be encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ray_distill.data.cache import Shape
from ray_distill.data.listing import Entry
from ray_distill.data.source import Source, Teacher
from ray_distill.data.store import Store, address
from ray_distill.models.codec import outline
from ray_distill.models.loading import folder_hash, patch

Row = dict[str, Any]
FORMAT = 3
"""Of stores and index: a new number makes all rows anew."""


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

    def folder(self, teacher: Teacher) -> Path:
        return teacher.path or self.path

    def transformer(self, teacher: Teacher) -> str:
        return address(FORMAT, folder_hash(self.folder(teacher) / "transformer"))

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

    def __init__(self, source: Source, models: Models, prompts: Sequence[Entry], files: Sequence[Row]) -> None:
        self.source, self.models = source, models
        self.rows = [row for entry in prompts for row in self.taught(entry)] + list(files)
        self.latents = Store(source.cache_dir / "latents" / models.codec)
        self.text = Store(source.cache_dir / "text" / models.encoder)

    @cached_property
    def row_bytes(self) -> int:
        """Of the largest latents."""
        return max((4 * int(np.prod(self.shape(row))) for row in self.rows if row["id"]), default=1)

    @property
    def sample_shape(self) -> Shape:
        """(C, t, h, w)"""
        return self.models.latent_shape(self.source.frames, self.source.height, self.source.width)

    def text_shape(self) -> tuple[int, int]:
        """[L, D] of an embedding, by that of the negative prompt, which is in its store."""
        place = [self.text.places()[address(self.source.negative_prompt)]]
        size, length = len(self.text.read(place, "text")[0]), self.text.read(place, "length")[0]
        return self.models.max_sequence_length, size // (4 * length)

    def shape(self, row: Row) -> Shape:
        """(C, t, h, w); a prompt has that of samples, as has what the teacher makes of it."""
        if not row["video"]:
            return self.sample_shape
        clips = self.source.clips(self.source.parts[row["dataset"]])
        return self.models.latent_shape(clips.frames, row["height"], row["width"])

    def taught(self, entry: Entry) -> list[Row]:
        """The rows of a prompt: one, without an id, or those of its teacher."""
        teacher = self.source.parts[entry.dataset].teacher
        row = asdict(entry) | {"number": 0, "height": 0, "width": 0, "id": ""}
        if teacher is None:
            return [row]
        recipe = teacher.model_dump(exclude={"path", "batch", "clips_per_prompt"})
        if not teacher.levels:
            del recipe["levels"]
        made_of = self.models.transformer(teacher), self.models.encoder, self.source.negative_prompt, self.sample_shape
        ids = [address(*made_of, recipe, entry.caption, number) for number in range(teacher.clips_per_prompt)]
        return [row | {"number": number, "id": id_} for number, id_ in enumerate(ids)]

    def missing_text(self) -> list[Row]:
        """The distinct captions, the negative prompt and the empty one, that are not in their store."""
        captions = {self.source.negative_prompt, "", *(row["caption"] for row in self.rows if not row["error"])}
        stored = self.text.places()
        rows = [{"id": address(caption), "caption": caption} for caption in sorted(captions)]
        return [row for row in rows if row["id"] not in stored]

    def missing_clips(self) -> list[Row]:
        """The distinct clips that are not in their store."""
        stored = self.latents.places()
        wanted = {row["id"]: row for row in self.rows if row["id"] and row["video"] and not row["error"]}
        return [row for id_, row in wanted.items() if id_ not in stored]

    def missing_taught(self, dataset: int) -> list[Row]:
        """The clips of a dataset's teacher that are not in their store, each with the place of its text."""
        stored, texts = self.latents.places(), self.text.places()
        wanted = {row["id"]: row for row in self.rows if row["id"] and row["dataset"] == dataset}
        places = {id_: texts[address(row["caption"])] for id_, row in wanted.items() if id_ not in stored}
        return [{"id": id_} | {f"text_{k}": v for k, v in place._asdict().items()} for id_, place in places.items()]

    def failed(self, errors: Mapping[str, str]) -> None:
        """Clips that could not be decoded."""
        for row in self.rows:
            row["error"] = row["error"] or errors.get(row["id"], "")
