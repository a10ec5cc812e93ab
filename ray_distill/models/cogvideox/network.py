"""CogVideoX's network, diffusers' CogVideoXTransformer3DModel, behind Denoiser.

The network takes latents [B, T, C, H, W] of its variance-preserving schedule, z = a x_0 + b eps, and predicts
v = a eps - b x_0 (arXiv 2202.00512). Here it takes x_t of the straight line and gives eps - x_0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor

from ray_distill.models.causal import check_plain
from ray_distill.models.cogvideox.schedule import snr_shift_scale, training_timestep
from ray_distill.models.exits import exit_argument
from ray_distill.models.sequence import own_tokens
from ray_distill.types import Cache, Cond, History, Prediction, Window


@dataclass(frozen=True)
class CogVideoXDenoiser:
    """``network`` is a CogVideoXTransformer3DModel or an engine that wraps one.

    With sigma = b / (a + b) and k = a + b = 1 / sqrt(sigma^2 + (1 - sigma)^2): z = k x_t, and eps - x_0 = k (v + (2
    sigma - 1) z). Latents enter in the network's own dtype; both changes of variables are computed in the dtype of
    ``x_t``, in which the velocity is returned.
    """

    network: Any
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
        """ValueError for a causal call, for features, and for levels that differ by frame."""
        check_plain("cogvideox", chunks, cache, features)
        if sigma.ndim == 2:
            raise ValueError("model.family = 'cogvideox': all frames have one level; use another method, or family wan")
        config = self.network.config
        s = sigma.to(x_t.dtype).view(-1, 1, 1, 1, 1)
        k = (s**2 + (1 - s) ** 2).rsqrt()
        z = k * x_t
        with own_tokens(self.network, "patch_embed", "proj_out", whole=cond["text"].shape[1]):
            (v,) = self.network(
                hidden_states=z.transpose(1, 2).to(self.dtype),
                encoder_hidden_states=cond["text"].to(self.dtype),
                timestep=training_timestep(sigma, snr_shift_scale(config)),
                image_rotary_emb=rotary_positions(config, x_t),
                return_dict=False,
                **exit_argument(cond),
            )
        return Prediction(k * (v.transpose(1, 2).to(x_t.dtype) + (2 * s - 1) * z))


def rotary_positions(config: Mapping[str, Any], x_t: Tensor) -> tuple[Tensor, Tensor] | None:
    """(cosines, sines) [tokens, D] of the positions of the latents ``x_t`` [B, C, T, H, W]; None for 2B, which adds its
    own sinusoids to its tokens."""
    if not config["use_rotary_positional_embeddings"]:
        return None
    frames, *sides = x_t.shape[2:]
    height, width, base_height, base_width = (
        side // config["patch_size"] for side in (*sides, config["sample_height"], config["sample_width"])
    )
    cos, sin = get_3d_rotary_pos_embed(
        embed_dim=config["attention_head_dim"],
        crops_coords=region((height, width), (base_height, base_width)),
        grid_size=(height, width),
        temporal_size=frames,
        device=x_t.device,
    )
    return cos, sin


def region(grid: tuple[int, int], base: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and last corner (row, column) of the part of ``base``, the training's grid, over which the rows and columns
    of ``grid`` are spread: the largest centred part with the aspect ratio of ``grid``."""
    (height, width), (rows, columns) = grid, base
    if height / width > rows / columns:
        columns = round(rows / height * width)
    else:
        rows = round(columns / width * height)
    top, left = round((base[0] - rows) / 2), round((base[1] - columns) / 2)
    return (top, left), (top + rows, left + columns)
