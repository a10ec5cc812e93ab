"""LTX-Video's VAE, diffusers' AutoencoderKLLTXVideo, behind Codec."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import AutoencoderKLLTXVideo
from torch import Tensor, nn

from ray_distill.models.codec import first_alone
from ray_distill.models.spec import Latent


class LTXVAE(nn.Module):
    """diffusers' AutoencoderKLLTXVideo with its normalisation, latents = (mode - mean) scaling_factor / std."""

    vae_class: ClassVar[type[Any]] = AutoencoderKLLTXVideo
    model: ClassVar[str] = "LTX-Video"

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path) -> Self:
        how: dict[str, Any] = {"torch_dtype": torch.float32, "use_safetensors": True, "local_files_only": True}
        return cls(cls.vae_class.from_pretrained(folder, **how))

    @classmethod
    def outline(cls, config: Mapping[str, Any]) -> Self:
        """The codec of a configuration, without weights, on torch's current default device."""
        return cls(cls.vae_class.from_config(dict(config)))

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

    def decode_chunks(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        raise ValueError(
            f"{self.model}'s VAE decodes a frame with the help of later frames, so that clips are decoded whole"
        )

    @property
    def stride(self) -> tuple[int, int, int]:
        space = self.vae.spatial_compression_ratio
        return self.vae.temporal_compression_ratio, space, space

    @property
    def channels(self) -> int:
        return int(self.vae.config.latent_channels)

    def fitting(self, frames: int) -> tuple[int, int]:
        return first_alone(frames, self.stride[0])

    def latent_shape(self, frames: int, height: int, width: int) -> Latent:
        time, space, _ = self.stride
        below, above = self.fitting(frames)
        if below != frames:
            raise ValueError(f"frames={frames}: {self.model}'s VAE takes {time}k+1 frames; use {below} or {above}")
        if height % space or width % space:
            raise ValueError(f"height x width = {height}x{width}: {self.model}'s VAE takes multiples of {space}")
        return self.vae.config.latent_channels, (frames - 1) // time + 1, height // space, width // space
