"""LTX-Video's network, diffusers' LTXVideoTransformer3DModel, behind Denoiser.

The network takes latents as tokens [B, t h w, C] and places them by pixels and seconds: a latent frame is 8 frames, a
row 32 pixels, and clips count as 25 frames a second, the default of diffusers' pipeline.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import LTXVideoTransformer3DModel
from torch import Tensor

from ray_distill.types import Cache, Cond, History, Prediction, Window

STRIDE = (8, 32, 32)
FRAME_RATE = 25.0


@dataclass(frozen=True)
class LTXDenoiser:
    """``network`` is an LTXVideoTransformer3DModel or an engine that wraps one; it predicts the velocity at 1000 sigma.

    Latents enter in the network's own dtype and the velocity comes back in the dtype of ``x_t``.
    """

    network: Callable[..., Any]
    dtype: torch.dtype = torch.float32

    def __call__(
        self,
        x_t: Tensor,
        sigma: Tensor,
        cond: Cond,
        *,
        chunks: Sequence[int] = (),
        cache: Cache | None = None,
        remember: bool = False,
        window: Window | None = None,
        history: History | None = None,
        features: Sequence[int] = (),
        read: bool = False,
    ) -> Prediction:
        """ValueError for a causal call and for features: they are Wan's so far."""
        if chunks or cache is not None or features:
            raise ValueError("model.family = 'ltx': no causal calls and no features; use family wan, or another method")
        frames, height, width = x_t.shape[2:]
        text = cond["text"]
        (tokens,) = self.network(
            hidden_states=x_t.flatten(2).transpose(1, 2).to(self.dtype),
            encoder_hidden_states=text.to(self.dtype),
            timestep=1000 * (sigma.repeat_interleave(height * width, dim=1) if sigma.ndim == 2 else sigma),
            encoder_attention_mask=(text != 0).any(-1),  # zeros stand behind a prompt's last token
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=(STRIDE[0] / FRAME_RATE, *map(float, STRIDE[1:])),
            return_dict=False,
        )
        return Prediction(tokens.transpose(1, 2).unflatten(2, (frames, height, width)).to(x_t.dtype))


class LTX:
    """The family: which class its folder must hold, and how to adapt it."""

    transformer: ClassVar[type[LTXVideoTransformer3DModel]] = LTXVideoTransformer3DModel
    denoiser: ClassVar[type[LTXDenoiser]] = LTXDenoiser
    text_width: ClassVar[str] = "caption_channels"
    ends: ClassVar[tuple[str, ...]] = ("in_channels", "out_channels", "caption_channels")

    @staticmethod
    def noise(shape: Sequence[int]) -> Tensor:
        """Latents [B, C, T, H, W] of noise as diffusers' pipeline draws them, in the network's layout."""
        b, c, *size = shape
        return torch.randn(b, math.prod(size), c).transpose(1, 2).unflatten(2, size)

    @staticmethod
    def features(config: Mapping[str, Any]) -> tuple[int, int]:
        """No block's hidden states are given: ValueError for heads that would look at them."""
        raise ValueError(
            "model.family = 'ltx': no features are taken from its blocks; use family wan, or another method"
        )

    @staticmethod
    def patch(config: Mapping[str, Any]) -> tuple[int, int]:
        """Rows and columns of latents in one token; ValueError for networks that would cut them further."""
        if config.get("patch_size", 1) != 1 or config.get("patch_size_t", 1) != 1:
            raise ValueError("an LTX-Video whose patch_size is not 1 was never published, and is not adapted")
        return 1, 1
