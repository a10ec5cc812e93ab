"""LTX-2's picture VAE, diffusers' AutoencoderKLLTX2Video, behind Codec; a clip's shape counts its sound, too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLLTX2Video
from torch import Tensor, nn

from ray_distill.models.ltx2.network import FRAME_RATE

TOKENS_PER_SECOND = 16_000 / 160 / 4
"""Of sound: 16 kHz, a mel frame each 160 samples, and a latent frame each 4 of these (``family.check`` holds it)."""


class LTX2VAE(nn.Module):
    """diffusers' AutoencoderKLLTX2Video with its normalisation, latents = (mode - mean) scaling_factor / std."""

    def __init__(self, vae: AutoencoderKLLTX2Video) -> None:
        super().__init__()
        self.vae = vae.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path) -> LTX2VAE:
        return cls(
            AutoencoderKLLTX2Video.from_pretrained(
                folder, torch_dtype=torch.float32, use_safetensors=True, local_files_only=True
            )
        )

    @classmethod
    def outline(cls, described: Mapping[str, Any]) -> LTX2VAE:
        """The codec of a configuration alone, without weights, on the device that surrounds the call."""
        return cls(AutoencoderKLLTX2Video.from_config(dict(described)))

    def _moments(self) -> tuple[Tensor, Tensor]:
        mean, std = (value.view(1, -1, 1, 1, 1).float() for value in (self.vae.latents_mean, self.vae.latents_std))
        return mean, std / self.vae.config.scaling_factor

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Latents [B, C, t, h, w] of the picture alone."""
        self.latent_shape(*pixels.shape[2:])
        mean, std = self._moments()
        return (self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode().float() - mean) / std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """``latents`` [B, C, t, h, w] of the picture alone."""
        mean, std = self._moments()
        level = torch.zeros(len(latents), device=latents.device) if self.vae.config.timestep_conditioning else None
        latents = (latents.float() * std + mean).to(self.vae.dtype)
        return self.vae.decode(latents, level, return_dict=False)[0].float().clamp(-1, 1)

    def decode_chunks(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        raise ValueError("LTX-2's clips are decoded whole: family ltx2 has no causal students")

    @property
    def stride(self) -> tuple[int, int, int]:
        space = self.vae.spatial_compression_ratio
        return self.vae.temporal_compression_ratio, space, space

    @property
    def channels(self) -> int:
        return int(self.vae.config.latent_channels)

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int, int]:
        """(C, t, h, w, L): sound is as long as the picture at 24 frames a second, to half a token of 1/25 s."""
        time, space, _ = self.stride
        if frames % time != 1:
            below = max(frames - 1, 0) // time * time + 1
            raise ValueError(f"frames={frames}: LTX-2's VAE takes {time}k+1 frames; use {below} or {below + time}")
        if height % space or width % space:
            raise ValueError(f"height x width = {height}x{width}: LTX-2's VAE takes multiples of {space}")
        sound = round(frames / FRAME_RATE * TOKENS_PER_SECOND)
        return self.channels, (frames - 1) // time + 1, height // space, width // space, sound
