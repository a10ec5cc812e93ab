"""LTX-Video text-to-video (diffusers' LTXVideoTransformer3DModel) behind Denoiser, its VAE behind Codec.

The network takes latents as tokens [B, t h w, C] and places them by pixels and seconds: a latent frame is 8 frames, a
row 32 pixels, and clips count as 25 frames a second, the default of diffusers' pipeline.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKLLTXVideo, LTXVideoTransformer3DModel
from torch import Tensor, nn

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


class LTXVAE(nn.Module):
    """diffusers' AutoencoderKLLTXVideo with its normalisation, latents = (mode - mean) scaling_factor / std."""

    def __init__(self, vae: AutoencoderKLLTXVideo) -> None:
        super().__init__()
        self.vae = vae.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path) -> LTXVAE:
        return cls(
            AutoencoderKLLTXVideo.from_pretrained(
                folder, torch_dtype=torch.float32, use_safetensors=True, local_files_only=True
            )
        )

    @classmethod
    def outline(cls, described: Mapping[str, Any]) -> LTXVAE:
        """Of a configuration alone, on the device that surrounds the call."""
        return cls(AutoencoderKLLTXVideo.from_config(dict(described)))

    def _moments(self) -> tuple[Tensor, Tensor]:
        mean, std = (value.view(1, -1, 1, 1, 1).float() for value in (self.vae.latents_mean, self.vae.latents_std))
        return mean, std / self.vae.config.scaling_factor

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        self.latent_shape(*pixels.shape[2:])
        mean, std = self._moments()
        return (self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode().float() - mean) / std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        mean, std = self._moments()
        level = torch.zeros(len(latents), device=latents.device) if self.vae.config.timestep_conditioning else None
        latents = (latents.float() * std + mean).to(self.vae.dtype)
        return self.vae.decode(latents, level, return_dict=False)[0].float().clamp(-1, 1)

    @property
    def stride(self) -> tuple[int, int, int]:
        space = self.vae.spatial_compression_ratio
        return self.vae.temporal_compression_ratio, space, space

    @property
    def channels(self) -> int:
        return int(self.vae.config.latent_channels)

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        time, space, _ = self.stride
        if frames % time != 1:
            below = max(frames - 1, 0) // time * time + 1
            raise ValueError(f"frames={frames}: LTX-Video's VAE takes {time}k+1 frames; use {below} or {below + time}")
        if height % space or width % space:
            raise ValueError(f"height x width = {height}x{width}: LTX-Video's VAE takes multiples of {space}")
        return self.vae.config.latent_channels, (frames - 1) // time + 1, height // space, width // space


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
