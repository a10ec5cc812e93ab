"""HunyuanVideo 1.5's VAE, diffusers' AutoencoderKLHunyuanVideo15, behind Codec."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo15
from torch import Tensor, nn

from ray_distill.models.codec import first_alone
from ray_distill.models.spec import Latent


class HunyuanVAE(nn.Module):
    """diffusers' AutoencoderKLHunyuanVideo15 with its normalisation, latents = mode scaling_factor."""

    def __init__(self, vae: AutoencoderKLHunyuanVideo15) -> None:
        super().__init__()
        self.vae = vae.eval().requires_grad_(False)
        self.vae.enable_slicing()  # without slices a batch raises: its attention mask has clips where the heads belong

    @classmethod
    def load(cls, folder: Path) -> HunyuanVAE:
        how: dict[str, Any] = {"torch_dtype": torch.float32, "use_safetensors": True, "local_files_only": True}
        return cls(AutoencoderKLHunyuanVideo15.from_pretrained(folder, **how))

    @classmethod
    def outline(cls, config: Mapping[str, Any]) -> HunyuanVAE:
        """The codec of a configuration, without weights, on torch's current default device."""
        return cls(AutoencoderKLHunyuanVideo15.from_config(dict(config)))

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
        raise ValueError("HunyuanVideo 1.5's clips are decoded whole: family hunyuan15 has no causal students")

    @property
    def stride(self) -> tuple[int, int, int]:
        space = int(self.vae.config.spatial_compression_ratio)
        return int(self.vae.config.temporal_compression_ratio), space, space

    @property
    def channels(self) -> int:
        return int(self.vae.config.latent_channels)

    def fitting(self, frames: int) -> tuple[int, int]:
        return first_alone(frames, self.stride[0])

    def latent_shape(self, frames: int, height: int, width: int) -> Latent:
        time, space, _ = self.stride
        below, above = self.fitting(frames)
        if below != frames:
            raise ValueError(f"frames={frames}: HunyuanVideo 1.5's VAE takes {time}k+1 frames; use {below} or {above}")
        if height % space or width % space:
            raise ValueError(f"height x width = {height}x{width}: HunyuanVideo 1.5's VAE takes multiples of {space}")
        return self.channels, (frames - 1) // time + 1, height // space, width // space
