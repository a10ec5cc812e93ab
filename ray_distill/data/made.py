"""A source between its files and its cache: what is there, and what has to be encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ray_distill.data.cache import Shape
from ray_distill.data.source import Source
from ray_distill.data.store import Store, address
from ray_distill.models.codec import outline
from ray_distill.models.loading import folder_hash, patch

Row = dict[str, Any]
FORMAT = 2
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
