"""Wan's network, diffusers' WanTransformer3DModel, behind Denoiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from ray_distill.models.features import read_out, tapped
from ray_distill.models.wan.causal import causal_attention
from ray_distill.models.wan.conditions import enter, leave
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
        start, frames = cache.frames if cache is not None else 0, x_t.shape[2]
        latents, levels = enter(x_t, sigma, cond, start)
        image = {"encoder_hidden_states_image": cond["image"].to(self.dtype)} if "image" in cond else {}
        causal = causal_attention(self.network, frames, chunks, cache, remember, window, history is not None)
        if history is not None:
            latents, levels = self._beside(history, latents, levels, cond)
        with causal, tapped(self.network, features) as taken, read_out(self.network, taken, read) as readings:
            (velocity,) = self.network(
                hidden_states=latents.to(self.dtype),
                timestep=1000 * (self._by_token(levels, x_t) if levels.ndim == 2 else levels),
                encoder_hidden_states=cond["text"].to(self.dtype),
                return_dict=False,
                **image,
            )
        velocity = leave(velocity[:, :, -frames:].to(x_t.dtype), x_t, sigma, cond, start)
        return Prediction(velocity, tuple(taken), tuple(readings))

    def _beside(self, history: History, latents: Tensor, levels: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        """Teacher forcing: the clean frames in front of the noised ones, each at its level."""
        by_frame = levels if levels.ndim == 2 else levels[:, None].expand(-1, latents.shape[2])
        clean, at = enter(history.x, history.sigma, cond, 0)
        return torch.cat([clean, latents], dim=2), torch.cat([at, by_frame], dim=1)

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
