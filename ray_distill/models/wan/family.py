"""FAMILY: what Wan declares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from ray_distill.models.spec import Config, Export, Family, Field, Fields, TextEncoder
from ray_distill.models.wan.codec import WanVAE
from ray_distill.models.wan.network import WanDenoiser

if TYPE_CHECKING:
    from ray_distill.models.pipeline import Pipeline

HERE = Path(__file__).parent


def fields(pipeline: Pipeline, tokens: int) -> Fields:
    """Text with zeros behind the last token: Wan was trained with them, and attends to all of them."""
    return {"text": Field((tokens, int(pipeline.described.get("text_dim", 4096))), padding="zeros")}


def text(folder: Path, tokens: int, precision: str) -> TextEncoder:
    from ray_distill.models.wan.text import wan_text  # seconds of transformers, which who encodes clips does without

    return wan_text(folder, tokens, precision)


def noise(shape: Sequence[int]) -> Tensor:
    return torch.randn(*shape)


def patch(config: Config) -> tuple[int, int]:
    _, height, width = config.get("patch_size", (1, 2, 2))
    return height, width


def features(config: Config) -> tuple[int, int]:
    return int(config["num_layers"]), int(config["num_attention_heads"]) * int(config["attention_head_dim"])


FAMILY = Family(
    name="wan",
    transformer=WanTransformer3DModel,
    parts={"text_encoder": "UMT5EncoderModel", "vae": "AutoencoderKLWan"},
    denoiser=WanDenoiser,
    codec=WanVAE,
    fields=fields,
    text=text,
    noise=noise,
    patch=patch,
    features=features,
    text_width="text_dim",
    ends=("in_channels", "out_channels", "text_dim"),
    export=Export(
        pipeline="WanPipeline",
        script=HERE / "sample.py",
        bases=("WanPipeline", "WanVideoToVideoPipeline"),
        causal=(HERE / "sample_causal.py", {"causal_wan.py": HERE / "causal.py"}),
        experts=True,
    ),
    published=HERE / "published",
)
