"""Encoders of a run: its pipeline's codec, text encoder and image encoder, and the addresses of their stores."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path

from ray_distill.collector import at_rest
from ray_distill.data.source import Source, Teacher
from ray_distill.data.store.cache import FORMAT, Shape
from ray_distill.data.store.parquet import address
from ray_distill.models.codec import Codec, load_codec
from ray_distill.models.hashing import folder_hash, merged_hash
from ray_distill.models.lora_files import LoRAFile
from ray_distill.models.parts import stored_dtypes
from ray_distill.models.pipeline import Pipeline
from ray_distill.models.spec import Fields, ImageEncoder, SoundEncoder, TextEncoder, columns, of_captions, of_clips


def cleaning() -> str:
    """Name and version of the package that cleans prompts before they are tokenized."""
    return f"ftfy {metadata.version('ftfy')}"


@dataclass(frozen=True)
class Encoders:
    """Codec, text encoder and image encoder of a pipeline, and the settings by which prompts are encoded."""

    pipeline: Pipeline
    max_sequence_length: int
    text_precision: str = "float32"
    loras: tuple[LoRAFile, ...] = ()
    """LoRAs that are merged into the transformer of the pipeline."""
    vae_tiling: bool = False
    """True where the VAE encodes and decodes by tiles."""

    @property
    def path(self) -> Path:
        return self.pipeline.path

    @cached_property
    def fields(self) -> Fields:
        """The fields of Cond."""
        return self.pipeline.fields(self.max_sequence_length)

    def text_encoder(self) -> TextEncoder:
        """The text encoder, loaded, on the CPU."""
        with at_rest():  # the import takes 2 s, and 2.7 s with collections
            return self.pipeline.of.text(self.path, self.max_sequence_length, self.text_precision)

    def load_codec(self) -> Codec:
        """The codec, loaded, on the CPU."""
        return load_codec(self.path / "vae", self.vae_tiling)

    def image_encoder(self, codec: Codec) -> ImageEncoder | None:
        """The image encoder, loaded, on the CPU; None where clips have no fields."""
        if not of_clips(self.fields):
            return None  # without importing the family, which takes seconds
        make = self.pipeline.of.image
        return make(self.pipeline, codec) if make else None

    def sound_encoder(self) -> SoundEncoder | None:
        """The encoder of sound, loaded, on the CPU; None where clips have no sound."""
        if not self.sound_rate:
            return None  # without importing the family, if the driver has asked for the rate
        of = self.pipeline.of.sound
        return of.encoder(self.path) if of else None

    @cached_property
    def sound_rate(self) -> int:
        """Samples per second of the sound that clips are read with; 0 where they have none."""
        of = self.pipeline.of.sound
        return of.rate if of else 0

    @cached_property
    def sound(self) -> str:
        """Address of the encoding of files' sound, on which the ids of their clips depend; "" where clips have none."""
        of = self.pipeline.of.sound
        return address(of.version, of.rate, [folder_hash(self.path / part) for part in of.parts]) if of else ""

    @cached_property
    def codec(self) -> str:
        """Address of latents in their store."""
        return address(FORMAT, folder_hash(self.path / "vae"), *self._tiles)

    @cached_property
    def encoder(self) -> str:
        """Address of captions' fields in their store."""
        parts = [folder_hash(self.path / part) for part in self.pipeline.of.text_parts]
        precision = [] if self.text_precision == "float32" else [self.text_precision]
        stored = stored_dtypes(self.path / "text_encoder", "model", f"{self.pipeline.where}: text_encoder")
        if stored != {"F32"} and self.text_precision != "bfloat16":
            precision.append("computed in fp32")  # rows of earlier versions were computed in the dtype of the files
        return address(FORMAT, parts, self.max_sequence_length, cleaning(), *precision, *columns(self.fields))

    @cached_property
    def images(self) -> str:
        """Address of clips' fields in their store; "" where a clip has none."""
        fields = of_clips(self.fields)
        parts = [folder_hash(self.path / part) for part in self.pipeline.of.image_parts(fields)]
        return address(FORMAT, parts, sorted(fields.items()), *self._tiles) if fields else ""

    @property
    def _tiles(self) -> list[str]:
        return ["tiles"] if self.vae_tiling else []

    def folder(self, teacher: Teacher) -> Path:
        return teacher.path or self.path

    def merged(self, teacher: Teacher) -> tuple[LoRAFile, ...]:
        """LoRAs that are merged into the transformer of ``teacher``: none where it has a path of its own."""
        return self.loras if teacher.path is None else ()

    def transformer(self, teacher: Teacher) -> str:
        return address(FORMAT, merged_hash(folder_hash(self.folder(teacher) / "transformer"), self.merged(teacher)))

    @property
    def multiple(self) -> tuple[int, int]:
        """(height, width) must be multiples of these two numbers."""
        return self.pipeline.multiple

    def shapes_of_latents(self, source: Source) -> dict[int, Shape]:
        """(C, t, h, w) of clips by number of each dataset of latents."""
        size = source.height, source.width
        frames = {number: source.clips(source.parts[number]).frames for number in source.numbers_of("latents")}
        return {number: self.latent_shape(count, *size) for number, count in frames.items()}

    @property
    def text_field(self) -> str:
        """The name of a caption's only field. ValueError where a caption has several."""
        (name,) = of_captions(self.fields)
        return name

    def widths_of_text(self, source: Source) -> dict[int, int]:
        """Numbers of a token, by number of each dataset whose rows bring their text embedding."""
        numbers = [number for number, part in enumerate(source.parts) if part.text_embeddings]
        return {number: int(self.fields[self.text_field].shape[1]) for number in numbers}

    def latent_shape(self, frames: int, height: int, width: int) -> Shape:
        return self.pipeline.latent_shape(frames, height, width)
