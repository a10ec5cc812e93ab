"""Encoders of a run: the pipeline folder that codec and text encoder come from, and the shapes they make."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path

from ray_distill.data.source import Teacher
from ray_distill.data.store.cache import FORMAT, Shape
from ray_distill.data.store.parquet import address
from ray_distill.models.codec import outline
from ray_distill.models.hashing import folder_hash
from ray_distill.models.loading import patch


def cleaning() -> str:
    """Name and version of the package that cleans prompts before they are tokenized."""
    return f"ftfy {metadata.version('ftfy')}"


@dataclass(frozen=True)
class Encoders:
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
        return address(FORMAT, parts, self.max_sequence_length, cleaning(), *(["int8"] if self.int8_text else []))

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
