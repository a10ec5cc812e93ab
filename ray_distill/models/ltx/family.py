"""FAMILY: LTX-Video's declaration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ray_distill.models.spec import Config, Export, Family, Field, Fields, TextEncoder

if TYPE_CHECKING:
    from ray_distill.models.pipeline import Pipeline
    from ray_distill.models.sequence import Ranks

HERE = Path(__file__).parent


def fields(pipeline: Pipeline, tokens: int) -> Fields:
    """Text with a mask, so that the network ignores the padding behind the last token."""
    return {"text": Field((tokens, int(pipeline.architecture.get("caption_channels", 4096))), padding="mask")}


def text(folder: Path, tokens: int, precision: str) -> TextEncoder:
    from ray_distill.models.ltx.text import (
        ltx_text,
    )  # transformers takes seconds to import, and encoders of clips need none of it

    return ltx_text(folder, tokens, precision)


def exchange_heads(network: nn.Module, ranks: Ranks) -> None:
    from ray_distill.models.ltx.sequence import exchange_heads

    exchange_heads(network, ranks)


def noise(shape: Sequence[int]) -> Tensor:
    """Noise [B, C, T, H, W], drawn in the network's layout as tokens [B, T H W, C]."""
    b, c, *size = shape
    return torch.randn(b, math.prod(size), c).transpose(1, 2).unflatten(2, size)


def patch(config: Config) -> tuple[int, int]:
    """(1, 1); ValueError for networks with larger patches."""
    if config.get("patch_size", 1) != 1 or config.get("patch_size_t", 1) != 1:
        raise ValueError("an LTX-Video whose patch_size is not 1 is not supported; give a published LTX-Video")
    return 1, 1


def features(config: Config) -> tuple[int, tuple[int, ...]]:
    raise ValueError("model.family = 'ltx': no features are taken from its blocks; use family wan, or another method")


FAMILY = Family(
    name="ltx",
    transformer_place="diffusers:LTXVideoTransformer3DModel",
    parts={"text_encoder": "T5EncoderModel", "vae": "AutoencoderKLLTXVideo"},
    text_billions=4.76,  # T5 v1.1 XXL
    denoiser_place="ray_distill.models.ltx.network:LTXDenoiser",
    exchange_heads=exchange_heads,
    codec_place="ray_distill.models.ltx.codec:LTXVAE",
    fields=fields,
    text=text,
    noise=noise,
    patch=patch,
    features=features,
    text_width="caption_channels",
    ends=("in_channels", "out_channels", "caption_channels"),
    export=Export(
        pipeline="LTXPipeline",
        script=HERE / "sample.py",
        bases=("LTXPipeline", "LTXImageToVideoPipeline", "LTXConditionPipeline"),
    ),
    published_folder=HERE / "published",
    original={"transformer_blocks": "transformer_blocks"},  # diffusers does not read other layers' original names
)
