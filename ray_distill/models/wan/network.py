"""Wan's network, diffusers' WanTransformer3DModel, behind Denoiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ray_distill.models.exits import exit_argument
from ray_distill.models.features import block_outputs, readings
from ray_distill.models.sequence import own_tokens
from ray_distill.models.wan.causal import causal_attention
from ray_distill.models.wan.conditions import enter, leave
from ray_distill.types import Cache, Cond, History, Prediction, Window


@dataclass(frozen=True)
class WanDenoiser:
    """``network`` is a WanTransformer3DModel or an engine that wraps one; it predicts the velocity at 1000 sigma.

    Latents enter in the network's own dtype; the velocity is returned in the dtype of ``x_t``.
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
        with (
            causal,
            block_outputs(self.network, features) as hidden,
            readings(self.network, hidden, read) as hidden_readings,
            own_tokens(self.network, "patch_embedding", "proj_out", dim=2),
        ):
            (velocity,) = self.network(
                hidden_states=latents.to(self.dtype),
                timestep=1000 * (self._by_token(levels, x_t) if levels.ndim == 2 else levels),
                encoder_hidden_states=cond["text"].to(self.dtype),
                return_dict=False,
                **image,
                **exit_argument(cond),
            )
        velocity = leave(velocity[:, :, -frames:].to(x_t.dtype), x_t, sigma, cond, start)
        return Prediction(velocity, tuple(hidden), tuple(hidden_readings))

    def _beside(self, history: History, latents: Tensor, levels: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        """(latents, levels) with the clean frames of ``history`` in front of the noised ones (teacher forcing)."""
        by_frame = levels if levels.ndim == 2 else levels[:, None].expand(-1, latents.shape[2])
        clean, at = enter(history.x, history.sigma, cond, 0)
        return torch.cat([clean, latents], dim=2), torch.cat([at, by_frame], dim=1)

    def _by_token(self, sigma: Tensor, x_t: Tensor) -> Tensor:
        """``sigma`` [B, T] per token, [B, tokens], as diffusers takes levels that differ within a clip."""
        _, height, width = self.network.patch_embedding.stride  # type: ignore[attr-defined]
        return sigma.repeat_interleave(x_t.shape[3] // height * (x_t.shape[4] // width), dim=1)
