"""Encode the first frames of clips, or pictures, into LTX-2's condition: the latents of the first latent frame."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from torch import Tensor

from ray_distill.models.codec import Codec
from ray_distill.models.spec import Row


def compressed(picture: np.ndarray) -> np.ndarray:
    """``picture`` uint8 [1, H, W, 3], H and W even, after H.264 at the quality of the videos that LTX-2.0 learned from,
    as the pipeline does by default (``image_crf``)."""
    from diffusers.pipelines.ltx2.utils import DEFAULT_IMAGE_CRF, apply_image_conditioning_crf

    shown: np.ndarray = apply_image_conditioning_crf(picture[0], DEFAULT_IMAGE_CRF)
    return shown[None]


class LTX2ImageEncoder:
    """Encoder of images by the pipeline's video VAE, whose first latent frame is one picture and depends on no later
    frame."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec

    def to(self, device: torch.device | str) -> Self:
        return self  # the codec's owner moves the codec

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> list[Row]:
        """One row per clip of ``pixels`` [B, 3, T, H, W] in [-1, 1]: "first" [C, h, w], normalised fp32. Only the first
        frame is read."""
        return [{"first": latents[:, 0]} for latents in self.codec.encode(pixels[:, :, :1])]
