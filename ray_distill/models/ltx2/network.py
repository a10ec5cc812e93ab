"""LTX-2's network, diffusers' LTX2VideoTransformer3DModel, behind Denoiser.

The network takes picture and sound as two lists of tokens of equal width and noise level, with positions in seconds and
pixels: a latent frame is 8 frames at 24 per second, a row 32 pixels, a token of sound 1/25 s. A first latent frame that
is a condition has level 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ray_distill.models.causal import check_plain
from ray_distill.models.exits import exit_argument
from ray_distill.models.features import block_outputs
from ray_distill.models.first_frame import towards_first, with_first
from ray_distill.models.ltx2.family import FRAME_RATE
from ray_distill.models.packed import layout, pack, picture, sound
from ray_distill.models.sequence import own_tokens
from ray_distill.types import Cache, Cond, History, Prediction, Window

SOUND = 1
"""The place of the sound's tokens among a block's outputs."""


@dataclass(frozen=True)
class LTX2Denoiser:
    """``network`` is an LTX2VideoTransformer3DModel or an engine that wraps one; it predicts both velocities at 1000
    sigma.

    x_t [B, C, t h w + L, 1, 1] is packed (``models/packed.py``). Latents enter in the network's own dtype; the velocity
    is returned in the dtype of ``x_t``. ``first`` [B, C, h, w] in Cond is the first latent frame of a clip that begins
    with an image.
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
        """ValueError for a causal call, for readings, and for levels that differ by frame. The features of a block are
        its picture's tokens, then its sound's."""
        check_plain("ltx2", chunks, cache, features if read else ())
        if sigma.ndim == 2:
            raise ValueError("model.family = 'ltx2': all frames have one level; use another method, or family wan")
        shape = layout(cond, x_t.shape[1])
        _, frames, height, width, length = shape
        timestep = 1000 * sigma
        latents, video_timestep, first = picture(x_t, shape), timestep, cond.get("first")
        if first is not None:
            latents, levels = with_first(latents, sigma, first)
            video_timestep = 1000 * levels.repeat_interleave(height * width, dim=1)
        own = own_tokens(self.network, "proj_in", "proj_out", tables=("rope", "cross_attn_rope"))
        with own, block_outputs(self.network, features, "transformer_blocks", whole=(SOUND,)) as hidden:
            video, audio = self.network(
                hidden_states=latents.flatten(2).transpose(1, 2).to(self.dtype),
                audio_hidden_states=sound(x_t, shape).transpose(1, 2).to(self.dtype),
                encoder_hidden_states=cond["text"].to(self.dtype),
                audio_encoder_hidden_states=cond["audio_text"].to(self.dtype),
                timestep=video_timestep,
                audio_timestep=timestep,
                sigma=timestep,
                num_frames=frames,
                height=height,
                width=width,
                fps=FRAME_RATE,
                audio_num_frames=length,
                use_cross_timestep=True,  # as the pipeline does: each modality reads the other at the level of the clip
                return_dict=False,
                **exit_argument(cond),
            )
        velocity, heard = video.transpose(1, 2).unflatten(2, shape[1:4]).to(x_t.dtype), audio.transpose(1, 2)
        if first is not None:
            velocity = towards_first(velocity, picture(x_t, shape), sigma, first)
        return Prediction(pack(velocity, heard.to(x_t.dtype)), tuple(hidden))
