"""Wan's VAE, diffusers' AutoencoderKLWan, behind Codec: layout, strides and normalisation of its latents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from torch import Tensor, nn

from ray_distill.models.codec import first_alone


class WanVAE(nn.Module):
    """diffusers' AutoencoderKLWan with Wan's normalisation, latents = (mode - latents_mean) / latents_std."""

    mean: Tensor
    std: Tensor

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.vae = vae.eval().requires_grad_(False)
        per_channel = (1, vae.config.z_dim, 1, 1, 1)
        self.register_buffer("mean", torch.tensor(vae.config.latents_mean).view(per_channel), persistent=False)
        self.register_buffer("std", torch.tensor(vae.config.latents_std).view(per_channel), persistent=False)

    @classmethod
    def load(cls, folder: Path) -> WanVAE:
        """Load the VAE in fp32, as Wan's authors run it: in half precision its causal convolutions lose visible
        detail."""
        vae = AutoencoderKLWan.from_pretrained(
            folder, torch_dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        return cls(vae)

    @classmethod
    def outline(cls, config: Mapping[str, Any]) -> WanVAE:
        """The codec of a configuration, with Wan 2.1's defaults, without weights, on torch's current default device."""
        channels = int(config.get("z_dim", 16))
        unread = {"latents_mean": [0.0] * channels, "latents_std": [1.0] * channels}  # an outline encodes nothing
        return cls(AutoencoderKLWan.from_config({**config, **unread}))

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        self.latent_shape(*pixels.shape[2:])
        latents = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode().float()
        return (latents - self.mean) / self.std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        latents = latents.float() * self.std + self.mean
        return self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0].float().clamp(-1, 1)

    @torch.no_grad()
    def decode_chunks(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Pixels chunk by chunk. As diffusers decodes a whole clip, it decodes frame by frame, and keeps the cache of
        the causal convolutions between chunks."""
        vae, first = self.vae, True
        vae.clear_cache()
        for latents in chunks:
            x = vae.post_quant_conv((latents.float() * self.std + self.mean).to(vae.dtype))
            frames = []
            for frame in x.split(1, dim=2):
                vae._conv_idx = [0]
                frames.append(vae.decoder(frame, vae._feat_map, vae._conv_idx, first_chunk=first))
                first = False
            pixels = torch.cat(frames, dim=2)
            if vae.config.patch_size is not None:
                pixels = unpatchify(pixels, patch_size=vae.config.patch_size)
            yield pixels.float().clamp(-1, 1)
        vae.clear_cache()

    @property
    def stride(self) -> tuple[int, int, int]:
        space = self.vae.config.scale_factor_spatial
        return self.vae.config.scale_factor_temporal, space, space

    @property
    def channels(self) -> int:
        return int(self.vae.config.z_dim)

    def fitting(self, frames: int) -> tuple[int, int]:
        return first_alone(frames, self.stride[0])

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        time, space, _ = self.stride
        below, above = self.fitting(frames)
        if below != frames:
            raise ValueError(f"frames={frames}: the Wan VAE takes {time}k+1 frames; use {below} or {above}")
        if height % space or width % space:
            raise ValueError(f"height x width = {height}x{width}: the Wan VAE takes multiples of {space}")
        return self.vae.config.z_dim, (frames - 1) // time + 1, height // space, width // space
