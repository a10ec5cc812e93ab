"""Family: what a folder of models/ declares of a family of networks, and Field: one tensor of its conditioning.

    FAMILY = Family(transformer=WanTransformer3DModel, denoiser=WanDenoiser, fields=fields, ...)

Light to import: a field travels to the tasks that fetch rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

if TYPE_CHECKING:
    import torch
    from diffusers import SchedulerMixin
    from torch import Tensor, nn

    from ray_distill.models.codec import Codec
    from ray_distill.models.pipeline import Pipeline
    from ray_distill.models.sequence import Ranks
    from ray_distill.types import Denoiser

Config = Mapping[str, Any]
Latent = tuple[int, ...]
"""(C, t, h, w), or (C, t, h, w, L) with L tokens of sound (``packed.py``)"""
Row = Mapping[str, "Tensor"]
"""Conditioning of one sample, by field: without a batch axis, and without padding."""
ITEM_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Field:
    """One tensor of Cond, of one sample. ``shape`` may name an axis of the latents, "t", "h" or "w"; for a padded
    caption its first number is the most tokens.

    ``of``: the caption or the clip under whose hash it is stored. ``padding``: "zeros" behind the last token, which the
    network attends to; "mask": zeros, too, and Cond has ``<name>_mask`` [B, L] beside it, true for tokens; "whole": all
    rows have this shape.
    """

    shape: tuple[int | Literal["t", "h", "w"], ...]
    of: Literal["caption", "clip"] = "caption"
    padding: Literal["zeros", "mask", "whole"] = "whole"
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype in the store."""
    prefix: int = 0
    """Number of the clip's first latent frames that this field holds: networks give them back, and losses leave them
    out."""

    def __post_init__(self) -> None:
        if self.of == "clip" and self.padding != "whole":
            raise ValueError(f"padding = {self.padding!r}: a clip's field has the shape of its latents, and is whole")

    def sizes(self, latent: Latent) -> tuple[int, ...]:
        """The shape beside latents (C, t, h, w)."""
        named = dict(zip("thw", latent[1:4], strict=True))
        return tuple(named[size] if isinstance(size, str) else size for size in self.shape)

    def nbytes(self, latent: Latent) -> int:
        """Most bytes of a row."""
        return math.prod(self.sizes(latent)) * ITEM_BYTES[self.dtype]


Fields = Mapping[str, Field]


def of_captions(fields: Fields) -> Fields:
    return {name: field for name, field in fields.items() if field.of == "caption"}


def of_clips(fields: Fields) -> Fields:
    return {name: field for name, field in fields.items() if field.of == "clip"}


FIRST = ("text", "float32")
"""The one field of captions before families declared theirs: its stores keep their addresses."""


def columns(fields: Fields) -> list[tuple[str, str]]:
    """Names and dtypes in the store of captions, for its address; empty where it holds ``FIRST`` alone."""
    names: list[tuple[str, str]] = [(name, field.dtype) for name, field in sorted(of_captions(fields).items())]
    return [] if names == [FIRST] else names


def prefix_frames(fields: Fields) -> int:
    """Number of a clip's first latent frames that its conditioning gives (``Batch.prefix``)."""
    return sum(field.prefix for field in fields.values())


class TextEncoder(Protocol):
    """Prompts -> every field of a caption. ``to`` moves it."""

    def encode(self, prompts: Sequence[str]) -> list[Row]: ...

    def tokens(self, prompts: Sequence[str]) -> list[int]:
        """Number of tokens of each prompt, including those that ``encode`` cuts off."""
        ...

    def to(self, device: torch.device | str) -> Self: ...


class ImageEncoder(Protocol):
    """Clips -> every field of a clip. ``to`` moves it, but not the codec that it was made with."""

    def encode(self, pixels: Tensor) -> list[Row]:
        """Fields of ``pixels`` [B, 3, T, H, W] in [-1, 1]. An encoder reads the given frames: the first, or the first
        and the last."""
        ...

    def to(self, device: torch.device | str) -> Self: ...


class SoundDecoder(Protocol):
    """Sound's tokens -> samples. ``to`` moves it."""

    @property
    def rate(self) -> int:
        """Samples a second."""
        ...

    def decode(self, tokens: Tensor) -> Tensor:
        """Normalised ``tokens`` [B, C, L] -> fp32 [B, channels, samples] in [-1, 1]."""
        ...

    def to(self, device: torch.device | str) -> Self: ...


class CodecClass(Protocol):
    """A codec's class: ``load`` reads a ``vae`` folder, ``outline`` needs its configuration alone, on the device that
    surrounds the call."""

    def load(self, folder: Path) -> Codec: ...

    def outline(self, described: Config) -> Codec: ...


@dataclass(frozen=True)
class Export:
    """Export of a student for diffusers: the ``pipeline`` that samples it, by name, and the ``script``, copied as
    sample.py.

    ``bases`` are the pipelines whose folders have the parts that it takes. ``causal``: the script of a causal student,
    and the files that lie beside it under other names, None where there is none. ``experts``: true where the pipeline
    routes between two transformers.
    """

    pipeline: str
    script: Path
    bases: tuple[str, ...]
    causal: tuple[Path, Mapping[str, Path]] | None = None
    experts: bool = False
    task: str = "text-to-video"
    """The hub's name of its task."""
    scheduler: Callable[[nn.Module], SchedulerMixin] | None = None
    """(student) -> the scheduler that the script steps by, where it is not one of flow matching."""


def torch_randn(shape: Sequence[int]) -> Tensor:
    """Noise [B, C, T, H, W] from torch's global generator, in the order of its elements."""
    import torch  # a field travels to tasks without it

    return torch.randn(tuple(shape))


@dataclass(frozen=True)
class Family:
    """A family of networks. docs/families.md says what each entry owes."""

    name: str
    transformer: type[Any]
    """diffusers' class in transformer/."""
    parts: Mapping[str, str]
    """The classes in the pipeline's other folders: text_encoder, vae, and those that the family has beside them."""
    denoiser: Callable[..., Denoiser]
    """(network, dtype=torch.float32) -> the network behind Denoiser; it may be an engine that wraps one."""
    exchange_heads: Callable[[nn.Module, Ranks], None] | None
    """Put the exchange of sequence parallelism around the self-attention of each block of a transformer; None where
    ranks cannot share a clip."""
    codec: CodecClass
    fields: Callable[[Pipeline, int], Fields]
    """(pipeline, most tokens of a prompt) -> the tensors of Cond."""
    text: Callable[[Path, int, str], TextEncoder]
    """(pipeline's folder, most tokens, precision: float32, bfloat16 or int8)"""
    noise: Callable[[Sequence[int]], Tensor]
    """Latents [B, C, T, H, W] of noise as diffusers' pipeline draws them from torch's global generator."""
    patch: Callable[[Config], tuple[int, int]]
    """Rows and columns of latents in one token, by the transformer's configuration."""
    features: Callable[[Config], tuple[int, int]]
    """(blocks, width D of their outputs), by the transformer's configuration; ValueError where the family gives
    none."""
    text_width: str
    """The key of the transformer's configuration for the width of its text."""
    ends: tuple[str, ...]
    """Keys of the transformer's configuration in which networks of one run must agree."""
    export: Export
    published: Path
    """A folder of JSON files, each named as a pipeline on the hub, with the configurations of its parts."""
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """Layers that get an adapter where a role's lora names none."""
    original: Mapping[str, str] | None = None
    """Layers in which an adapter may be, as in diffusers' name of them -> as in the network's original code; both are
    whole dotted parts. None where diffusers loads no adapter by the original names."""
    image: Callable[[Pipeline, Codec], ImageEncoder] | None = None
    """(pipeline, its codec)"""
    image_parts: Callable[[Fields], tuple[str, ...]] = lambda _: ()
    """Folders of the pipeline that encode these fields of a clip, the VAE's included."""
    image_channels: Callable[[Config], int] = lambda _: 0
    """Channels that the network takes behind the noisy ones, by the transformer's configuration."""
    image_export: Export | None = None
    """Export of a student whose clips have fields; None: the same as for others."""
    others: Mapping[str, type[Any]] = field(default_factory=dict)
    """diffusers' classes of the parts beside text encoder and VAE, which ``parts`` names, too."""
    text_parts: tuple[str, ...] = ("text_encoder", "tokenizer")
    """Folders of the pipeline that a caption's fields are made with."""
    sound: Callable[[Path], SoundDecoder] | None = None
    """(pipeline's folder) -> what makes sound of its tokens; None where a clip is a picture alone."""
    start: Callable[[Sequence[int]], Tensor] = torch_randn
    """As ``noise``, of the latents that the pipeline begins with."""
    fps: float | None = None
    """The only data.fps that is right; None where the network knows of none."""
    check: Callable[[Pipeline, int], None] = lambda pipeline, tokens: None
    """(pipeline, most tokens): ValueError for a folder of its classes that the family is not adapted to."""
    tokens: Callable[[Config], int | None] = lambda _: None
    """The only right model.max_sequence_length, by the transformer's configuration; None where any is."""

    def leaves(self, fields: Fields) -> Export:
        """The export of a student of these ``fields``."""
        return self.image_export if self.image_export and of_clips(fields) else self.export
