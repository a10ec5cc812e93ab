"""Wan 2.1 text-to-video (diffusers' WanTransformer3DModel) behind Denoiser, and its VAE behind Codec."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor, nn

from ray_distill.models.causal_wan import causal_attention
from ray_distill.models.features import read_out, tapped
from ray_distill.types import Cache, Cond, History, Prediction, Window


@dataclass(frozen=True)
class WanDenoiser:
    """``network`` is a WanTransformer3DModel or an engine that wraps one; it predicts the velocity at 1000 sigma.

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
        frames = x_t.shape[2]
        causal = causal_attention(self.network, frames, chunks, cache, remember, window, history is not None)
        if history is not None:
            assert chunks and not features, "teacher forcing is by chunks, and its features are of both halves"
            by_frame = sigma if sigma.ndim == 2 else sigma[:, None].expand(-1, frames)
            x_t, sigma = torch.cat([history.x, x_t], dim=2), torch.cat([history.sigma, by_frame], dim=1)
        with causal, tapped(self.network, features) as taken, read_out(self.network, taken, read) as readings:
            (velocity,) = self.network(
                hidden_states=x_t.to(self.dtype),
                timestep=1000 * (self._by_token(sigma, x_t) if sigma.ndim == 2 else sigma),
                encoder_hidden_states=cond["text"].to(self.dtype),
                return_dict=False,
            )
        return Prediction(velocity[:, :, -frames:].to(x_t.dtype), tuple(taken), tuple(readings))

    def _by_token(self, sigma: Tensor, x_t: Tensor) -> Tensor:
        """``sigma`` [B, T] as [B, tokens], which is how diffusers takes levels that differ within a clip."""
        _, height, width = self.network.patch_embedding.stride  # type: ignore[attr-defined]
        return sigma.repeat_interleave(x_t.shape[3] // height * (x_t.shape[4] // width), dim=1)


class Wan:
    """The family: which class its folder must hold, and how to adapt it."""

    transformer: ClassVar[type[WanTransformer3DModel]] = WanTransformer3DModel
    denoiser: ClassVar[type[WanDenoiser]] = WanDenoiser
    text_width: ClassVar[str] = "text_dim"
    """The key of the transformer's configuration that is the width of its text."""
    ends: ClassVar[tuple[str, ...]] = ("in_channels", "out_channels", "text_dim")
    """Keys of the transformer's configuration in which networks of one run must agree."""

    @staticmethod
    def noise(shape: Sequence[int]) -> torch.Tensor:
        """Latents [B, C, T, H, W] of noise as diffusers' pipeline draws them from torch's global generator."""
        return torch.randn(*shape)

    @staticmethod
    def features(config: Mapping[str, Any]) -> tuple[int, int]:
        """(blocks, width D of what they return) of a transformer's configuration."""
        return int(config["num_layers"]), int(config["num_attention_heads"]) * int(config["attention_head_dim"])

    @staticmethod
    def patch(config: Mapping[str, Any]) -> tuple[int, int]:
        """Rows and columns of latents in one token; ``config`` is the transformer's."""
        _, height, width = config.get("patch_size", (1, 2, 2))
        return height, width


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
        """fp32, as Wan's authors run it: in half precision its causal convolutions lose visible detail."""
        vae = AutoencoderKLWan.from_pretrained(
            folder, torch_dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        return cls(vae)

    @classmethod
    def outline(cls, described: Mapping[str, Any]) -> WanVAE:
        """Of a configuration alone, whose defaults are Wan 2.1's, on the device that surrounds the call."""
        return cls(AutoencoderKLWan.from_config(dict(described)))

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        self.latent_shape(*pixels.shape[2:])
        latents = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode().float()
        return (latents - self.mean) / self.std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        latents = latents.float() * self.std + self.mean
        return self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0].float().clamp(-1, 1)

    @property
    def stride(self) -> tuple[int, int, int]:
        space = self.vae.config.scale_factor_spatial
        return self.vae.config.scale_factor_temporal, space, space

    @property
    def channels(self) -> int:
        return int(self.vae.config.z_dim)

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        time, space, _ = self.stride
        if frames % time != 1:
            below = max(frames - 1, 0) // time * time + 1
            raise ValueError(f"frames={frames}: the Wan VAE takes {time}k+1 frames; use {below} or {below + time}")
        if height % space or width % space:
            raise ValueError(f"height x width = {height}x{width}: the Wan VAE takes multiples of {space}")
        return self.vae.config.z_dim, (frames - 1) // time + 1, height // space, width // space
