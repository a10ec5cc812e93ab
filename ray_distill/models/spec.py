"""Family: the declaration of a family of networks in a folder of models/; Field: one tensor of its conditioning.

    FAMILY = Family(transformer_place="diffusers:WanTransformer3DModel", fields=fields, ...)

Light to import, since fields travel to the tasks that fetch rows; so a family names its classes, and the
first use of one imports it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from ray_distill.collector import resolve

if TYPE_CHECKING:
    import numpy as np
    import torch
    from diffusers import SchedulerMixin
    from torch import Tensor, nn

    from ray_distill.models.codec import Codec, VAECodec
    from ray_distill.models.pipeline import Pipeline
    from ray_distill.models.sequence import Ranks
    from ray_distill.types import Denoiser

Config = Mapping[str, Any]
Latent = tuple[int, ...]
"""Shape of latents: (C, t, h, w), or (C, t, h, w, L) with L tokens of sound (``packed.py``)."""
Row = Mapping[str, "Tensor"]
"""Conditioning of one sample by field, without batch axis and without padding."""
ITEM_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Field:
    """One tensor of Cond, for one sample. ``shape`` may name an axis of the latents, "t", "h" or "w"; for a padded
    caption its first number is the maximum of tokens.

    ``of``: the field belongs to a caption or to a clip, and is stored under its hash. ``padding``: "zeros" behind the
    last token, which the network attends to; "mask": zeros as well, and Cond also has ``<name>_mask`` [B, L], true for
    tokens; "whole": all rows have the full shape.
    """

    shape: tuple[int | Literal["t", "h", "w"], ...]
    of: Literal["caption", "clip"] = "caption"
    padding: Literal["zeros", "mask", "whole"] = "whole"
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the stored values."""
    prefix: int = 0
    """Number of the clip's first latent frames that this field contains: networks return them, and losses leave them
    out."""

    def __post_init__(self) -> None:
        if self.of == "clip" and self.padding != "whole":
            raise ValueError(f"padding = {self.padding!r}: a clip's field has the shape of its latents, and is whole")

    def sizes(self, latent: Latent) -> tuple[int, ...]:
        """The field's shape for latents of the shape ``latent``."""
        named = dict(zip("thw", latent[1:4], strict=True))
        return tuple(named[size] if isinstance(size, str) else size for size in self.shape)

    def nbytes(self, latent: Latent) -> int:
        """Most bytes of a stored value."""
        return math.prod(self.sizes(latent)) * ITEM_BYTES[self.dtype]


Fields = Mapping[str, Field]


def of_captions(fields: Fields) -> Fields:
    return {name: field for name, field in fields.items() if field.of == "caption"}


def of_clips(fields: Fields) -> Fields:
    return {name: field for name, field in fields.items() if field.of == "clip"}


FIRST = ("text", "float32")
"""The only field of captions before families declared fields; stores with this field alone keep their addresses."""


def columns(fields: Fields) -> list[tuple[str, str]]:
    """(name, dtype) of the fields in the store of captions, for its address; empty where ``FIRST`` is the only
    field."""
    names: list[tuple[str, str]] = [(name, field.dtype) for name, field in sorted(of_captions(fields).items())]
    return [] if names == [FIRST] else names


def prefix_frames(fields: Fields) -> int:
    """Number of a clip's first latent frames that its conditioning contains (``Batch.prefix``)."""
    return sum(field.prefix for field in fields.values())


class TextEncoder(Protocol):
    """Encoder of prompts into all fields of a caption. ``to`` moves it to a device."""

    def encode(self, prompts: Sequence[str]) -> list[Row]: ...

    def tokens(self, prompts: Sequence[str]) -> list[int]:
        """Number of tokens of each prompt, including those that ``encode`` cuts off."""
        ...

    def to(self, device: torch.device | str) -> Self: ...


class ImageEncoder(Protocol):
    """Encoder of clips into all fields of a clip. ``to`` moves it to a device, but not the codec that it uses."""

    def encode(self, pixels: Tensor) -> list[Row]:
        """One row per clip of ``pixels`` [B, 3, T, H, W] in [-1, 1]. An encoder reads only the frames that a condition
        shows: the first, or the first and the last."""
        ...

    def to(self, device: torch.device | str) -> Self: ...


class SoundEncoder(Protocol):
    """Encoder of samples into tokens of sound. ``to`` moves it to a device."""

    def encode(self, samples: Tensor, tokens: int) -> Tensor:
        """Stereo ``samples`` [B, 2, n] in [-1, 1] at ``Sound.rate`` -> their first ``tokens`` tokens, normalised fp32
        [B, C, tokens]."""
        ...

    def to(self, device: torch.device | str) -> Self: ...


class SoundDecoder(Protocol):
    """Decoder of tokens of sound into samples. ``to`` moves it to a device."""

    @property
    def rate(self) -> int:
        """Samples per second."""
        ...

    def decode(self, tokens: Tensor) -> Tensor:
        """Normalised ``tokens`` [B, C, L] -> fp32 [B, channels, samples] in [-1, 1]."""
        ...

    def to(self, device: torch.device | str) -> Self: ...


@dataclass(frozen=True)
class Sound:
    """A family's sound: loaders of its encoder and of its decoder from a pipeline's folder."""

    encoder: Callable[[Path], SoundEncoder]
    decoder: Callable[[Path], SoundDecoder]
    rate: int
    """Samples per second that the encoder takes."""
    parts: tuple[str, ...]
    """The pipeline's folders that the encoder loads."""
    version: int
    """A number that changes with the encoder's code: with ``parts`` it addresses encoded clips."""


class CodecClass(Protocol):
    """A codec's class: ``load`` reads a ``vae`` folder; ``outline`` builds the codec from its configuration alone, on
    torch's current default device."""

    def load(self, folder: Path) -> VAECodec: ...

    def outline(self, config: Config) -> VAECodec: ...


@dataclass(frozen=True)
class Export:
    """Export of a student for diffusers: the name of the ``pipeline`` that samples it, and the ``script`` to copy as
    sample.py.

    ``bases`` are the pipelines whose folders have the parts that the script loads. ``causal``: (script of a causal
    student, files that are copied beside it, by their new names), or None. ``experts``: true where the pipeline routes
    between two transformers.
    """

    pipeline: str
    script: Path
    bases: tuple[str, ...]
    causal: tuple[Path, Mapping[str, Path]] | None = None
    experts: bool = False
    task: str = "text-to-video"
    """The hub's name for the task."""
    scheduler: Callable[[nn.Module], SchedulerMixin] | None = None
    """(student) -> the script's scheduler; None: one of flow matching."""


def torch_randn(shape: Sequence[int]) -> Tensor:
    """Noise [B, C, T, H, W] from torch's global generator, in the order of its elements."""
    import torch  # fields travel to tasks that do not import torch

    return torch.randn(tuple(shape))


@dataclass(frozen=True)
class Family:
    """The declaration of a family of networks; docs/families.md explains each entry."""

    name: str
    transformer_place: str
    """The place of diffusers' class of the network in transformer/, as ``module:name``."""
    parts: Mapping[str, str]
    """The class names in the pipeline's other folders: text_encoder, vae, and the family's further ones."""
    text_billions: float
    """Parameters of the published text encoder, in units of 10^9."""
    denoiser_place: str
    """The place of the Denoiser's class, as ``module:name``."""
    exchange_heads: Callable[[nn.Module, Ranks], None] | None
    """(transformer, ranks): put the exchange of sequence parallelism around each block's self-attention; None where
    ranks cannot share a clip."""
    codec_place: str
    """The place of the codec's class, as ``module:name``."""
    fields: Callable[[Pipeline, int], Fields]
    """(pipeline, most tokens of a prompt) -> the fields of Cond."""
    text: Callable[[Path, int, str], TextEncoder]
    """(pipeline's folder, most tokens, precision: float32, bfloat16 or int8) -> the text encoder."""
    noise: Callable[[Sequence[int]], Tensor]
    """(shape [B, C, T, H, W]) -> noise as diffusers' pipeline draws it from torch's global generator."""
    patch: Callable[[Config], tuple[int, int]]
    """(transformer's configuration) -> (rows, columns) of latents in one token."""
    features: Callable[[Config], tuple[int, tuple[int, ...]]]
    """(transformer's configuration) -> (number of blocks, width D of each of a block's outputs); ValueError where the
    family gives no features."""
    text_width: str
    """The key of the width of text in the transformer's configuration."""
    ends: tuple[str, ...]
    """Keys of the transformer's configuration in which all networks of a run must agree."""
    export: Export
    published_folder: Path
    """A folder of JSON files with the configurations of published pipelines; a file has its pipeline's name on the
    hub."""
    head_counts: tuple[str, ...] = ("num_attention_heads",)
    """Keys of the transformer's configuration: numbers of attention heads, each of which ranks that share a clip must
    divide."""
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """Layers that get an adapter where a role's ``lora`` section names no targets."""
    original: Mapping[str, str] | None = None
    """Names of layers that may have an adapter: whole dotted parts of diffusers' names -> those of the network's
    original code. None where diffusers loads no adapter by the original names."""
    original_rest: Mapping[str, str] | None = None
    """The same for all other tensors; a name behind a dot stands at the network's top alone. None where no file of the
    whole network is written under them."""
    workflow: (
        Callable[[Pipeline, Config, Mapping[str, Any], Mapping[str, Sequence[str]]], dict[str, Any] | str] | None
    ) = None
    """(base, network's configuration, recipe, exported files by format) -> a workflow of ComfyUI's nodes, or the reason
    why there is none."""
    image: Callable[[Pipeline, Codec], ImageEncoder] | None = None
    """(pipeline, its codec) -> the image encoder."""
    given_picture: Callable[[np.ndarray], np.ndarray] = lambda picture: picture
    """A given picture, cropped, uint8 [1, H, W, 3] -> the same as the pipeline shows it to its encoders; a clip's own
    first frame stays as it is."""
    image_parts: Callable[[Fields], tuple[str, ...]] = lambda _: ()
    """(fields) -> the pipeline's folders that encode the fields of a clip, including the VAE's."""
    image_channels: Callable[[Config], int] = lambda _: 0
    """(transformer's configuration) -> channels that the network takes behind the noisy ones."""
    image_noise: Callable[[Sequence[int]], Tensor] | None = None
    """As ``noise``, by the pipeline of ``image_export``; None: it draws the same."""
    image_export: Export | None = None
    """Export of a student whose clips have fields; None: ``export`` serves it as well."""
    others: Mapping[str, str] = field(default_factory=dict)
    """The places of diffusers' classes of the parts beside text encoder and VAE, as ``module:name``; ``parts`` has
    their names as well."""
    text_precisions: tuple[str, ...] = ("float32", "bfloat16", "int8")
    """Precisions in which the text encoder computes, widest first."""
    text_parts: tuple[str, ...] = ("text_encoder", "tokenizer")
    """The pipeline's folders that encode a caption's fields."""
    sound: Sound | None = None
    """The encoder and the decoder of sound; None where clips have no sound."""
    start: Callable[[Sequence[int]], Tensor] = torch_randn
    """As ``noise``, for the latents with which the pipeline begins."""
    fps: float | None = None
    """The only valid data.fps; None where the network has no frame rate."""
    check: Callable[[Pipeline, int], None] = lambda pipeline, tokens: None
    """(pipeline, most tokens): ValueError for a folder of the right classes that the family does not support."""
    tokens: Callable[[Config], int | None] = lambda _: None
    """(transformer's configuration) -> the only valid model.max_sequence_length; None where any is valid."""
    quicken: Callable[[nn.Module], None] = lambda _: None
    """(transformer): give it faster forms of its operations, equal to rounding, in fp32 on a CPU."""

    @property
    def transformer(self) -> Any:
        """diffusers' class of the network."""
        return resolve(self.transformer_place)

    @property
    def transformer_name(self) -> str:
        """The name of diffusers' class of the network, which needs no import."""
        return self.transformer_place.rpartition(":")[2]

    @property
    def denoiser(self) -> Callable[..., Denoiser]:
        """(network, dtype=torch.float32) -> a Denoiser around the network, which may also be an engine that wraps
        one."""
        denoiser: Callable[..., Denoiser] = resolve(self.denoiser_place)
        return denoiser

    @property
    def codec(self) -> CodecClass:
        """The codec's class."""
        codec: CodecClass = resolve(self.codec_place)
        return codec

    def leaves(self, fields: Fields) -> Export:
        """The export of a student with these ``fields``."""
        return self.image_export if self.image_export and of_clips(fields) else self.export
