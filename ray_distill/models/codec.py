"""Codec: pixels to latents and back, by a family's VAE or by a PCA of patches.

A codec's latents are normalised, as the denoiser expects them: each channel has about zero mean and unit variance.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from ray_distill.collector import resolve
from ray_distill.models import families
from ray_distill.models.spec import CodecClass, Latent

PCA = {
    "PatchPCA": "ray_distill.models.patch_pca:PatchPCA",
    "CausalPatchPCA": "ray_distill.models.causal_pca:CausalPatchPCA",
}
"""Codecs without a family: they import no diffusers, so that an encoder starts in a third of the time."""


class Codec(Protocol):
    """Turns videos into latents and back; frozen, without gradients."""

    def encode(self, pixels: Tensor) -> Tensor:
        """``pixels`` [B, 3, T, H, W] in [-1, 1] -> normalised latents fp32 [B, C, t, h, w]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents [B, C, t, h, w] -> pixels fp32 [B, 3, T, H, W] in [-1, 1]."""
        ...

    def decode_chunks(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Pixels [B, 3, T, H, W] of each of the ``chunks`` of a clip's latents, in order; joined they equal
        :meth:`decode` of the whole clip. Only for codecs in which no frame depends on a later frame, which excludes
        LTX-Video's."""
        ...

    def latent_shape(self, frames: int, height: int, width: int) -> Latent:
        """(C, t, h, w) of a video, or (C, t, h, w, L) with sound; ValueError for a size that the codec cannot take."""
        ...

    def fitting(self, frames: int) -> tuple[int, int]:
        """(below, above): the nearest numbers of frames that the codec takes, at or below and at or above ``frames``;
        below may be more where ``frames`` is less than the codec's fewest."""
        ...

    @property
    def stride(self) -> tuple[int, int, int]:
        """(frames, rows, columns) of pixels for each latent frame, row and column."""
        ...

    @property
    def channels(self) -> int:
        """Number C of latent channels."""
        ...

    def to(self, device: torch.device | str) -> Self: ...


class VAECodec(Codec, Protocol):
    """A codec with a ``vae`` of diffusers."""

    vae: Any


def first_alone(frames: int, time: int) -> tuple[int, int]:
    """:meth:`Codec.fitting` of a codec with one first frame, and ``time`` frames in each later latent frame."""
    below = max(frames - 1, 0) // time * time + 1
    return below, below + time * (below < frames)


def frames_of(codec: Codec, latent: int) -> int:
    """Number of frames of a clip with ``latent`` latent frames."""
    return codec.fitting((latent - 1) * codec.stride[0] + 1)[1]


def vae_class(name: str, where: str) -> CodecClass:
    """The codec class of the family whose VAE has the ``_class_name`` ``name``; ValueError, which begins with
    ``where``, where no family has such a VAE."""
    owners = {each.parts["vae"]: each for each in families()}
    if name not in owners:
        names = ", ".join([*PCA, *owners])
        raise ValueError(f"{where}: _class_name {name!r} is no known codec; use one of {names}")
    return owners[name].codec


def load_codec(folder: Path, tiling: bool = False) -> Codec:
    """Load the codec of a ``vae`` folder; ``_class_name`` in its config.json chooses the class. With ``tiling`` a VAE
    encodes and decodes by diffusers' overlapping tiles; a PCA has none, as its patches are apart."""
    config = Path(folder) / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"{folder} is no codec: it has no config.json")
    name = str(json.loads(config.read_text()).get("_class_name"))
    if name in PCA:
        codec: Codec = resolve(PCA[name]).load(Path(folder))
        return codec
    codec_of_vae = vae_class(name, str(folder)).load(Path(folder))
    if tiling:
        codec_of_vae.vae.enable_tiling()
    return codec_of_vae
