"""LTX-Video's network, diffusers' LTXVideoTransformer3DModel, behind Denoiser.

The network takes latents as tokens [B, t h w, C] with positions in seconds and pixels: a latent frame is 8 frames, a
row 32 pixels, and clips count as 25 frames per second, the default of diffusers' pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ray_distill.models.causal import check_plain
from ray_distill.models.exits import exit_argument
from ray_distill.models.sequence import own_tokens
from ray_distill.types import Cache, Cond, History, Prediction, Window

STRIDE = (8, 32, 32)
FRAME_RATE = 25.0


@dataclass(frozen=True)
class LTXDenoiser:
    """``network`` is an LTXVideoTransformer3DModel or an engine that wraps one; it predicts the velocity at 1000 sigma.

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
        """Predict as :class:`Denoiser`; ValueError for a causal call or for features, which only Wan has so far."""
        check_plain("ltx", chunks, cache, features)
        frames, height, width = x_t.shape[2:]
        with own_tokens(self.network, "proj_in", "proj_out"):
            (tokens,) = self.network(
                hidden_states=x_t.flatten(2).transpose(1, 2).to(self.dtype),
                encoder_hidden_states=cond["text"].to(self.dtype),
                timestep=1000 * (sigma.repeat_interleave(height * width, dim=1) if sigma.ndim == 2 else sigma),
                encoder_attention_mask=cond["text_mask"],
                num_frames=frames,
                height=height,
                width=width,
                rope_interpolation_scale=(STRIDE[0] / FRAME_RATE, *map(float, STRIDE[1:])),
                return_dict=False,
                **exit_argument(cond),
            )
        return Prediction(tokens.transpose(1, 2).unflatten(2, (frames, height, width)).to(x_t.dtype))
