"""LTX-2's picture VAE, diffusers' AutoencoderKLLTX2Video, behind Codec; a clip's shape includes its sound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from diffusers import AutoencoderKLLTX2Video
from torch import Tensor

from ray_distill.models.ltx.codec import LTXVAE
from ray_distill.models.ltx2.family import FRAME_RATE
from ray_distill.models.ltx2.hearing import HOP, RATE
from ray_distill.models.spec import Latent

TOKENS_PER_SECOND = RATE / HOP / 4
"""Rate of sound's tokens: 16 kHz, one mel frame per 160 samples, one token per 4 mel frames (see ``family.check``)."""


class LTX2VAE(LTXVAE):
    """diffusers' AutoencoderKLLTX2Video with LTX-Video's normalisation. It encodes and decodes only the picture."""

    vae_class: ClassVar[type[Any]] = AutoencoderKLLTX2Video
    model: ClassVar[str] = "LTX-2"

    def decode_chunks(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        raise ValueError("LTX-2's clips are decoded whole: family ltx2 has no causal students")

    def latent_shape(self, frames: int, height: int, width: int) -> Latent:
        """(C, t, h, w, L): sound is as long as the picture at 24 frames per second, rounded to a token of 1/25 s."""
        return *super().latent_shape(frames, height, width), round(frames / FRAME_RATE * TOKENS_PER_SECOND)
