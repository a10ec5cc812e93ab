"""Wan 2.1 text-to-video (diffusers' WanTransformer3DModel) behind Denoiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from ray_distill.types import Cond, Prediction


@dataclass(frozen=True)
class WanDenoiser:
    """``network`` is a WanTransformer3DModel or an engine that wraps one; it predicts the velocity at 1000 sigma.

    Latents enter in the network's own dtype and the velocity comes back in the dtype of ``x_t``.
    """

    network: Callable[..., Any]
    dtype: torch.dtype = torch.float32

    def __call__(self, x_t: Tensor, sigma: Tensor, cond: Cond) -> Prediction:
        (velocity,) = self.network(
            hidden_states=x_t.to(self.dtype),
            timestep=1000 * sigma,
            encoder_hidden_states=cond["text"].to(self.dtype),
            return_dict=False,
        )
        return Prediction(velocity.to(x_t.dtype))


class Wan:
    """The family: which class its folder must hold, and how to adapt it."""

    transformer: ClassVar[type[WanTransformer3DModel]] = WanTransformer3DModel
    denoiser: ClassVar[type[WanDenoiser]] = WanDenoiser
