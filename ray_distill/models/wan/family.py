"""FAMILY: Wan's declaration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ray_distill.errors import ConfigError
from ray_distill.models.codec import Codec
from ray_distill.models.parts import read_json
from ray_distill.models.spec import Config, Export, Family, Field, Fields, ImageEncoder, TextEncoder, of_clips
from ray_distill.models.wan.comfyui import workflow
from ray_distill.models.wan.conditions import TEMPORAL

if TYPE_CHECKING:
    from ray_distill.models.pipeline import Pipeline
    from ray_distill.models.sequence import Ranks

HERE = Path(__file__).parent


def fields(pipeline: Pipeline, tokens: int) -> Fields:
    """Text, with zeros behind the last token, to which Wan attends as in its training; and the fields of an image
    (``conditions``). ConfigError where model.from_image asks for something that the network cannot do."""
    config = pipeline.architecture
    conditions = {"text": Field((tokens, int(config.get("text_dim", 4096))), padding="zeros")}
    out = int(config.get("out_channels") or config.get("in_channels", 16))
    if image_channels(config):
        if pipeline.from_image is False:
            raise ConfigError(
                f"model.from_image = false: the transformer of {pipeline.where} has in_channels "
                f"{config['in_channels']} and takes an image; remove the key, or give a text-to-video folder"
            )
        conditions["held"] = Field((out, "t", "h", "w"), of="clip")
        return conditions | ({"image": _clip_states(pipeline)} if config.get("image_dim") else {})
    if not pipeline.from_image:
        return conditions
    if not pipeline.settings.get("expand_timesteps"):
        raise ConfigError(
            f"model.from_image = true: {pipeline.where} is a text-to-video pipeline; remove the key, or give an "
            "image-to-video folder or one of Wan 2.2 5B"
        )
    return conditions | {"first": Field((out, "h", "w"), of="clip", prefix=1)}


def image_channels(config: Config) -> int:
    """Number of channels of the mask and the image's latents; 0 for a network without them."""
    channels = int(config.get("in_channels", 16))
    out = int(config.get("out_channels") or channels)
    return channels - out if channels == 2 * out + TEMPORAL else 0


def _clip_states(pipeline: Pipeline) -> Field:
    """The field of CLIP's states: one token for the class and one per patch; 257 tokens, ViT-H's, without a folder."""
    width, config = int(pipeline.architecture["image_dim"]), pipeline.path / "image_encoder/config.json"
    if pipeline.architecture.get("pos_embed_seq_len"):
        raise ConfigError(
            f"{pipeline.where}: its transformer takes a first and a last image, which is not supported; give a folder "
            "for one image"
        )
    if not config.is_file():
        return Field((257, width), of="clip")
    encoder = read_json(config, f"{pipeline.where}: image_encoder")
    side, patch, states = (encoder.get(key) for key in ("image_size", "patch_size", "hidden_size"))
    if states != width or not isinstance(side, int) or not isinstance(patch, int) or patch < 1:
        raise ConfigError(
            f"{pipeline.where}: its transformer takes CLIP's states of {width}, and image_encoder gives {states}, of "
            f"pictures of {side} in patches of {patch}; give a folder whose parts belong together"
        )
    return Field(((side // patch) ** 2 + 1, width), of="clip")


def image(pipeline: Pipeline, codec: Codec) -> ImageEncoder:
    from ray_distill.models.wan.image import WanImageEncoder

    return WanImageEncoder.load(pipeline.path, codec, of_clips(pipeline.fields(1)))


def image_parts(conditions: Fields) -> tuple[str, ...]:
    if not of_clips(conditions):
        return ()
    return ("vae", *(("image_encoder", "image_processor") if "image" in conditions else ()))


def text(folder: Path, tokens: int, precision: str) -> TextEncoder:
    from ray_distill.models.wan.text import (
        wan_text,
    )  # transformers takes seconds to import, and encoders of clips need none of it

    return wan_text(folder, tokens, precision)


def exchange_heads(network: nn.Module, ranks: Ranks) -> None:
    from ray_distill.models.wan.sequence import exchange_heads

    exchange_heads(network, ranks)


def quicken(network: nn.Module) -> None:
    from ray_distill.models.wan.rotation import quicken

    quicken(network)


def noise(shape: Sequence[int]) -> Tensor:
    return torch.randn(*shape)


def patch(config: Config) -> tuple[int, int]:
    _, height, width = config.get("patch_size", (1, 2, 2))
    return height, width


def features(config: Config) -> tuple[int, tuple[int, ...]]:
    return int(config["num_layers"]), (int(config["num_attention_heads"]) * int(config["attention_head_dim"]),)


ORIGINAL = {
    **{f"attn1.to_{one}": f"self_attn.{one}" for one in "qkv"},
    **{f"attn2.to_{one}": f"cross_attn.{one}" for one in "qkv"},
    **{f"attn2.add_{one}_proj": f"cross_attn.{one}_img" for one in "kv"},
    "attn1.to_out.0": "self_attn.o",
    "attn2.to_out.0": "cross_attn.o",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "proj_out": "head.head",
}

REST = {
    ".scale_shift_table": "head.modulation",
    "scale_shift_table": "modulation",
    "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
    "condition_embedder.image_embedder.norm2": "img_emb.proj.4",
    "patch_embedding": "patch_embedding",
    **{f"attn1.norm_{one}": f"self_attn.norm_{one}" for one in "qk"},
    **{f"attn2.norm_{one}": f"cross_attn.norm_{one}" for one in "qk"},
    "attn2.norm_added_k": "cross_attn.norm_k_img",
    "norm2": "norm3",  # diffusers counts the norms in the order of their use
}

FAMILY = Family(
    name="wan",
    transformer_place="diffusers:WanTransformer3DModel",
    parts={"text_encoder": "UMT5EncoderModel", "vae": "AutoencoderKLWan"},
    text_billions=5.68,  # UMT5-XXL
    denoiser_place="ray_distill.models.wan.network:WanDenoiser",
    exchange_heads=exchange_heads,
    codec_place="ray_distill.models.wan.codec:WanVAE",
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
    published_folder=HERE / "published",
    original=ORIGINAL,
    workflow=workflow,
    original_rest=REST,
    image=image,
    image_parts=image_parts,
    image_channels=image_channels,
    image_export=Export(
        pipeline="WanImageToVideoPipeline",
        script=HERE / "sample_image.py",
        bases=("WanImageToVideoPipeline", "WanPipeline"),
        causal=(
            HERE / "sample_causal_image.py",
            {
                "causal_wan.py": HERE / "causal.py",
                "sample_by_chunks.py": HERE / "sample_causal.py",
                "sample_from_picture.py": HERE / "sample_image.py",
            },
        ),
        experts=True,
        task="image-to-video",
    ),
    tokens=lambda config: 512 if config.get("image_dim") else None,  # attention splits image and text there
    quicken=quicken,
)
