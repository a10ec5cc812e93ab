"""FAMILY: CogVideoX's declaration."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ray_distill.models.cogvideox.schedule import PUBLISHED_CONFIG, snr_shift_scale
from ray_distill.models.parts import read_json
from ray_distill.models.spec import Config, Export, Family, Field, Fields, TextEncoder

if TYPE_CHECKING:
    from diffusers import CogVideoXDDIMScheduler

    from ray_distill.models.pipeline import Pipeline
    from ray_distill.models.sequence import Ranks

HERE = Path(__file__).parent
SCHEDULERS = ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler")
"""Scheduler classes that share one table of noise levels."""
SAMPLING = ("clip_sample", "set_alpha_to_one", "timestep_spacing")
"""Keys of a scheduler that change only its own sampling, not the training's noise levels."""


def fields(pipeline: Pipeline, tokens: int) -> Fields:
    """T5's states of the prompt and its padding, in the precision of the published 5B."""
    return {"text": Field((tokens, int(pipeline.architecture.get("text_embed_dim", 4096))), dtype="bfloat16")}


def text(folder: Path, tokens: int, precision: str) -> TextEncoder:
    from ray_distill.models.cogvideox.text import (
        CogVideoXText,
    )  # transformers takes seconds to import, and encoders of clips need none of it

    return CogVideoXText(folder, tokens, precision)


def noise(shape: Sequence[int]) -> Tensor:
    """Noise drawn in the network's layout [B, T, C, H, W], as [B, C, T, H, W]."""
    b, c, t, h, w = shape
    return torch.randn(b, t, c, h, w).transpose(1, 2)


def patch(config: Config) -> tuple[int, int]:
    """(rows, columns) of latents in a token; ValueError for CogVideoX 1.5, and for networks that begin from an
    image."""
    if config.get("patch_size_t") is not None:
        raise ValueError(
            f"a transformer with patch_size_t = {config['patch_size_t']} is CogVideoX 1.5's, which is not supported; "
            "give CogVideoX-2b or CogVideoX-5b"
        )
    if config.get("use_learned_positional_embeddings") or config.get("ofs_embed_dim"):
        raise ValueError("a transformer of CogVideoX that begins from an image is not supported; give CogVideoX-5b")
    side = int(config.get("patch_size", 2))
    return side, side


def features(config: Config) -> tuple[int, tuple[int, ...]]:
    raise ValueError(
        "model.family = 'cogvideox': no features are taken from its blocks; use family wan, or another method"
    )


def check(pipeline: Pipeline, tokens: int) -> None:
    """ValueError unless prompts have the training's length, and the noise levels are the published ones."""
    from diffusers import CogVideoXDDIMScheduler

    network = pipeline.transformer
    patch(network)
    if tokens != (trained := network.get("max_text_seq_length", 226)):
        raise ValueError(
            f"model.max_sequence_length = {tokens}: the transformer of {pipeline.where} attends to padding, and was "
            f"trained with {trained} tokens; use {trained}"
        )
    scheduler = read_json(pipeline.path / "scheduler/scheduler_config.json", f"{pipeline.where}: scheduler")
    if (kind := scheduler.get("_class_name")) not in SCHEDULERS:
        raise ValueError(f"{pipeline.where}: its scheduler is a {kind}; give a folder with a {SCHEDULERS[0]}")
    defaults = inspect.signature(CogVideoXDDIMScheduler.__init__).parameters
    for key, value in {**PUBLISHED_CONFIG, "snr_shift_scale": snr_shift_scale(network)}.items():
        if key not in SAMPLING and (own := scheduler.get(key, defaults[key].default)) != value:
            raise ValueError(
                f"{pipeline.where}: its scheduler has {key} = {own}, and CogVideoX's network of this kind was trained "
                f"with {value}; other noise levels are not supported: give a folder whose parts belong together"
            )


def scheduler(network: nn.Module) -> CogVideoXDDIMScheduler:
    """The scheduler with which such a network was published."""
    from diffusers import CogVideoXDDIMScheduler

    config: Any = network.config
    return CogVideoXDDIMScheduler(**PUBLISHED_CONFIG, snr_shift_scale=snr_shift_scale(config))


def exchange_heads(network: nn.Module, ranks: Ranks) -> None:
    from ray_distill.models.cogvideox.sequence import exchange_heads

    exchange_heads(network, ranks)


FAMILY = Family(
    name="cogvideox",
    transformer_place="diffusers:CogVideoXTransformer3DModel",
    parts={"text_encoder": "T5EncoderModel", "vae": "AutoencoderKLCogVideoX"},
    text_billions=4.76,  # T5 v1.1 XXL
    denoiser_place="ray_distill.models.cogvideox.network:CogVideoXDenoiser",
    exchange_heads=exchange_heads,
    codec_place="ray_distill.models.cogvideox.codec:CogVideoXVAE",
    fields=fields,
    text=text,
    start=noise,
    noise=noise,
    check=check,
    patch=patch,
    features=features,
    text_width="text_embed_dim",
    ends=(
        "in_channels",
        "out_channels",
        "text_embed_dim",
        "max_text_seq_length",
        "patch_size_t",
        "use_rotary_positional_embeddings",  # 2B and 5B scale their VAEs' latents by different factors
    ),
    export=Export(
        pipeline="CogVideoXPipeline",
        script=HERE / "sample.py",
        bases=("CogVideoXPipeline", "CogVideoXVideoToVideoPipeline"),
        scheduler=scheduler,
    ),
    published_folder=HERE / "published",
)
