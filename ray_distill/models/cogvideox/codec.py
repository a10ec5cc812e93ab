"""CogVideoX's VAE, diffusers' AutoencoderKLCogVideoX, behind Codec."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX
from torch import Tensor, nn

from ray_distill.models.codec import first_alone
from ray_distill.models.spec import Latent

FRAMES = 8
"""Frames of each piece that diffusers encodes, after the clip's first frame; a piece is two latent frames."""


class CogVideoXVAE(nn.Module):
    """diffusers' AutoencoderKLCogVideoX with CogVideoX's normalisation, latents = mode scaling_factor."""

    def __init__(self, vae: AutoencoderKLCogVideoX) -> None:
        super().__init__()
        self.vae = vae.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path) -> CogVideoXVAE:
        how: dict[str, Any] = {"torch_dtype": torch.float32, "use_safetensors": True, "local_files_only": True}
        return cls(AutoencoderKLCogVideoX.from_pretrained(folder, **how))

    @classmethod
    def outline(cls, config: Mapping[str, Any]) -> CogVideoXVAE:
        """The codec of a configuration, without weights, on torch's current default device."""
        return cls(AutoencoderKLCogVideoX.from_config(dict(config)))

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        self.latent_shape(*pixels.shape[2:])
        mode: Tensor = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode()
        return mode.float() * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        latents = latents.float() / self.vae.config.scaling_factor
        pixels: Tensor = self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0]
        return pixels.float().clamp(-1, 1)

    def decode_chunks(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        raise ValueError("CogVideoX's clips are decoded whole: family cogvideox has no causal students")

    @property
    def stride(self) -> tuple[int, int, int]:
        space = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return int(self.vae.config.temporal_compression_ratio), space, space

    @property
    def channels(self) -> int:
        return int(self.vae.config.latent_channels)

    def fitting(self, frames: int) -> tuple[int, int]:
        return first_alone(frames, FRAMES)

    def latent_shape(self, frames: int, height: int, width: int) -> Latent:
        """(C, t, h, w). ValueError unless there are 8k+1 frames: diffusers would encode other numbers, but decode them
        to another number of frames (13 to 16) without an error."""
        time, space, _ = self.stride
        below, above = self.fitting(frames)
        if below != frames:
            raise ValueError(f"frames={frames}: CogVideoX's VAE takes {FRAMES}k+1 frames; use {below} or {above}")
        if height % space or width % space:
            raise ValueError(f"height x width = {height}x{width}: CogVideoX's VAE takes multiples of {space}")
        return self.channels, (frames - 1) // time + 1, height // space, width // space
