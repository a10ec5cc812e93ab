"""A family whose clips have a field of their own: Wan's networks, and the first latent frame of each clip as ``first``.

Its text comes with a mask, and is stored in bf16.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch

from ray_distill.models.spec import Field
from ray_distill.models.wan.family import FAMILY as WAN
from ray_distill.types import Prediction


@dataclass
class ToyImages:
    """Encoder of a clip's first latent frame [C, h, w]."""

    codec: Any

    def to(self, device):
        return self

    def encode(self, pixels):
        return [{"first": latents[:, 0]} for latents in self.codec.encode(pixels)]


@dataclass(frozen=True)
class ToyDenoiser:
    """Its x_0 is the mean of the text's valid tokens plus ``first`` in every frame: both reach the velocity."""

    network: Any
    dtype: torch.dtype = torch.float32

    def __call__(self, x_t, sigma, cond, **_):
        mask = cond["text_mask"][..., None]
        mean = (cond["text"].float() * mask).sum((1, 2)) / mask.sum((1, 2))
        x_0 = mean[:, None, None, None, None] + cond["first"][:, :, None]
        return Prediction((x_t - x_0) / sigma[:, None, None, None, None])


def fields(pipeline, tokens):
    width, channels = pipeline.architecture["text_dim"], pipeline.codec.channels
    return {
        "text": Field((tokens, width), padding="mask", dtype="bfloat16"),
        "first": Field((channels, "h", "w"), of="clip"),
    }


FAMILY = replace(
    WAN,
    name="toy",
    denoiser_place="tests.toy_family:ToyDenoiser",
    fields=fields,
    image=lambda pipeline, codec: ToyImages(codec),
    image_parts=lambda fields: ("vae",),
)
