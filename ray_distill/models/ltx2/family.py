"""FAMILY: LTX-2's declaration."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ray_distill.models.codec import Codec
from ray_distill.models.ltx2.hearing import BANDS as MEL_BANDS
from ray_distill.models.ltx2.hearing import HOP, RATE
from ray_distill.models.ltx2.image import LTX2ImageEncoder, compressed
from ray_distill.models.packed import pack
from ray_distill.models.spec import (
    Config,
    Export,
    Family,
    Field,
    Fields,
    ImageEncoder,
    Sound,
    SoundDecoder,
    SoundEncoder,
    TextEncoder,
    of_clips,
)

if TYPE_CHECKING:
    from ray_distill.models.pipeline import Pipeline
    from ray_distill.models.sequence import Ranks

HERE = Path(__file__).parent
FRAME_RATE = 24.0
BANDS = MEL_BANDS // 4
"""Mel bands in a token of sound; only the order in which the pipeline draws its first noise depends on it."""
HEARD = {"sample_rate": RATE, "mel_hop_length": HOP, "mel_bins": MEL_BANDS, "in_channels": 2}
"""Keys of the audio VAE's configuration on which the spectrogram and the number of tokens depend."""


def fields(pipeline: Pipeline, tokens: int) -> Fields:
    """The connectors' output for a prompt, one field per modality, in the precision of the published weights; with
    model.from_image also the first latent frame. The same weights begin from text and from images."""
    network = pipeline.architecture
    field = Field((tokens, int(network.get("caption_channels", 3840))), dtype="bfloat16")
    captions = {"text": field, "audio_text": field}
    if not pipeline.from_image:
        return captions
    return captions | {"first": Field((int(network.get("in_channels", 128)), "h", "w"), of="clip", prefix=1)}


def image(pipeline: Pipeline, codec: Codec) -> ImageEncoder:
    return LTX2ImageEncoder(codec)


def image_parts(conditions: Fields) -> tuple[str, ...]:
    return ("vae",) if of_clips(conditions) else ()


def text(folder: Path, tokens: int, precision: str) -> TextEncoder:
    from ray_distill.models.ltx2.text import LTX2Text  # imports transformers: encoders of clips need none

    return LTX2Text(folder, tokens, precision)


def sound_encoder(folder: Path) -> SoundEncoder:
    from ray_distill.models.ltx2.hearing import LTX2Hearing

    return LTX2Hearing.load(folder)


def sound_decoder(folder: Path) -> SoundDecoder:
    from ray_distill.models.ltx2.sound import LTX2Sound

    return LTX2Sound.load(folder)


def start(shape: Sequence[int]) -> Tensor:
    """Packed first latents, drawn in the pipeline's order: picture [B, C, t, h, w], then sound [B, C / bands, L,
    bands]."""
    b, c, *size, length = shape
    bands = BANDS if c % BANDS == 0 else c
    video = torch.randn(b, c, *size).flatten(2)
    audio = torch.randn(b, c // bands, length, bands).transpose(1, 2).flatten(2).transpose(1, 2)
    return torch.cat([video, audio], dim=2)[..., None, None]


def noise(shape: Sequence[int]) -> Tensor:
    """Packed noise, drawn as tokens: the picture's first, then the sound's."""
    b, c, *size, length = shape
    video, audio = torch.randn(b, math.prod(size), c), torch.randn(b, length, c)
    return torch.cat([video, audio], dim=1).transpose(1, 2)[..., None, None]


def image_noise(shape: Sequence[int]) -> Tensor:
    """``noise`` where the first frame is an image: only later frames are drawn, as [B, C, t - 1, h, w], then the
    sound's tokens. The frame has zeros, which no network reads."""
    b, c, frames, height, width, length = shape
    video, audio = torch.randn(b, c, frames - 1, height, width), torch.randn(b, length, c)
    return pack(torch.cat([torch.zeros(b, c, 1, height, width), video], dim=2), audio.transpose(1, 2))


def patch(config: Config) -> tuple[int, int]:
    """(1, 1); ValueError for networks with larger patches."""
    sizes = ("patch_size", "patch_size_t", "audio_patch_size", "audio_patch_size_t")
    if any(config.get(name, 1) != 1 for name in sizes):
        raise ValueError("an LTX-2 whose patch sizes are not 1 is not supported; give a published LTX-2")
    return 1, 1


def features(config: Config) -> tuple[int, tuple[int, ...]]:
    """(number of blocks, widths of a block's outputs: of the picture's tokens, of the sound's)."""
    video = int(config.get("num_attention_heads", 32)) * int(config.get("attention_head_dim", 128))
    audio = int(config.get("audio_num_attention_heads", 32)) * int(config.get("audio_attention_head_dim", 64))
    return int(config.get("num_layers", 48)), (video, audio)


def check(pipeline: Pipeline, tokens: int) -> None:
    """ValueError unless picture and sound have tokens of equal width, sound has the supported rate, and the connectors'
    registers divide the prompts' length."""
    network = pipeline.transformer
    sound, joined = (
        json.loads((pipeline.path / part / "config.json").read_bytes()) for part in ("audio_vae", "connectors")
    )
    width = sound.get("latent_channels", 8) * (sound.get("mel_bins") or 64) // 4
    channels = {name: network.get(name, 128) for name in ("in_channels", "audio_in_channels")}
    if set(channels.values()) != {width}:
        raise ValueError(
            f"{pipeline.where}: its transformer has {channels}, and audio_vae makes tokens of {width}; picture and "
            "sound are packed as tokens of one width; give a folder whose parts belong together"
        )
    theirs = {key: sound.get(key, value) for key, value in HEARD.items()}
    if theirs != HEARD:
        raise ValueError(f"{pipeline.where}: audio_vae has {theirs}, and LTX-2.0's has {HEARD}; give its folder")
    registers = {joined.get(f"{of}_connector_num_learnable_registers", 128) for of in ("video", "audio")}
    if None in registers or joined.get("per_modality_projections"):
        raise ValueError(
            f"{pipeline.where}: its connectors are not those of LTX-2.0, the only supported version; give its folder"
        )
    if any(tokens % count for count in registers):
        most = max(registers)
        raise ValueError(
            f"model.max_sequence_length = {tokens}: the connectors of {pipeline.where} put {most} registers in the "
            f"place of padding; use a multiple, 1024 for the published weights"
        )


ORIGINAL = {
    "transformer_blocks": "transformer_blocks",
    "proj_in": "patchify_proj",
    "audio_proj_in": "audio_patchify_proj",
    "time_embed": "adaln_single",
    "audio_time_embed": "audio_adaln_single",
    "av_cross_attn_video_scale_shift": "av_ca_video_scale_shift_adaln_single",
    "av_cross_attn_audio_scale_shift": "av_ca_audio_scale_shift_adaln_single",
    "av_cross_attn_video_a2v_gate": "av_ca_a2v_gate_adaln_single",
    "av_cross_attn_audio_v2a_gate": "av_ca_v2a_gate_adaln_single",
    "proj_out": "proj_out",
    "audio_proj_out": "audio_proj_out",
}
BASES = ("LTX2Pipeline", "LTX2ImageToVideoPipeline", "LTX2ConditionPipeline")
OTHERS = {
    "audio_vae": "diffusers:AutoencoderKLLTX2Audio",
    "connectors": "diffusers.pipelines.ltx2.connectors:LTX2TextConnectors",
    "vocoder": "diffusers.pipelines.ltx2.vocoder:LTX2Vocoder",
}


def exchange_heads(network: nn.Module, ranks: Ranks) -> None:
    from ray_distill.models.ltx2.sequence import exchange_heads

    exchange_heads(network, ranks)


FAMILY = Family(
    name="ltx2",
    transformer_place="diffusers:LTX2VideoTransformer3DModel",
    parts={
        "text_encoder": "Gemma3ForConditionalGeneration",
        "vae": "AutoencoderKLLTX2Video",
        **{part: of.rpartition(":")[2] for part, of in OTHERS.items()},
    },
    others=OTHERS,
    text_billions=12.2,  # Gemma 3 12B
    denoiser_place="ray_distill.models.ltx2.network:LTX2Denoiser",
    exchange_heads=exchange_heads,
    head_counts=("num_attention_heads", "audio_num_attention_heads"),
    codec_place="ray_distill.models.ltx2.codec:LTX2VAE",
    fields=fields,
    text=text,
    text_precisions=("float32", "bfloat16"),
    text_parts=("text_encoder", "tokenizer", "connectors"),
    sound=Sound(sound_encoder, sound_decoder, RATE, ("audio_vae",), version=1),
    start=start,
    noise=noise,
    image=image,
    given_picture=compressed,
    image_parts=image_parts,
    image_noise=image_noise,
    fps=FRAME_RATE,
    check=check,
    patch=patch,
    features=features,
    text_width="caption_channels",
    ends=("in_channels", "out_channels", "audio_in_channels", "audio_out_channels", "caption_channels"),
    export=Export(
        pipeline="LTX2Pipeline",
        script=HERE / "sample.py",
        bases=BASES,
    ),
    image_export=Export(
        pipeline="LTX2ImageToVideoPipeline",
        script=HERE / "sample.py",
        bases=BASES,
        task="image-to-video",
    ),
    published_folder=HERE / "published",
    original=ORIGINAL,
)
