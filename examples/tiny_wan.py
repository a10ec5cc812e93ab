"""Make a complete Wan of a few MB with random weights: it samples noise, but every part is the real class.

    python examples/tiny_wan.py models/tiny_wan [--kind 2.2_a14b_i2v] [--clips 8] [--seed 0]

It writes a diffusers pipeline folder (transformer, AutoencoderKLWan, UMT5 text encoder, tokenizer, scheduler) for
trying a configuration of a large Wan on a machine without one. ``--kind`` chooses the model: Wan 2.1 from text or from
an image (with its CLIP encoder), Wan 2.2 5B (one folder for both), or the two experts of Wan 2.2 A14B from text or from
an image. ``--clips`` adds ``clips/``: moving squares in clips of two shapes, each with its caption in a text file
beside it, and all listed in ``manifest.jsonl``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from ray_distill.data.read.video import write_clip

SPECIAL = ("<pad>", "</s>", "<unk>")
TEXT_DIM, LATENT_CHANNELS, MAX_LENGTH = 64, 16, 512
LATENT_STD, LATENT_STD_48 = 0.18, 0.17  # mean and spread of the latents that a random encoder makes from videos
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 80, 230), "yellow": (230, 210, 40)}
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
SHAPES, FRAMES, SQUARE, FPS = ((48, 80), (80, 48)), 25, 16, 16
IMAGE_DIM, PICTURE = 32, 32  # width of CLIP's states, and the square of pixels that CLIP looks at
HELD_CHANNELS = 4 + LATENT_CHANNELS  # an I2V transformer also takes a mask and the latents of the image


@dataclass(frozen=True)
class Kind:
    """Facts in which Wan's published pipelines differ from one another."""

    channels: int = LATENT_CHANNELS
    from_image: bool = False
    clip: bool = False
    boundary: float | None = None
    """``boundary_ratio`` of a pipeline of two experts."""
    levels_by_token: bool = False
    """``expand_timesteps``: the first latent frame of a video from an image is that image, at level 0."""
    shift: float = 3.0


KINDS = {
    "2.1_t2v": Kind(),
    "2.1_i2v": Kind(from_image=True, clip=True),
    "2.2_5b": Kind(channels=48, levels_by_token=True, shift=5.0),
    "2.2_a14b_t2v": Kind(boundary=0.875, shift=12.0),
    "2.2_a14b_i2v": Kind(from_image=True, boundary=0.9, shift=5.0),
}


def fast_tokenizer(tokenizer: Tokenizer, max_length: int) -> PreTrainedTokenizerFast:
    """Make a tokenizer like T5's, with ``</s>`` at the end of each prompt and ``<pad>`` after it."""
    end = ("</s>", tokenizer.token_to_id("</s>"))
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[end])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=max_length,
    )


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer with one token per UTF-8 byte, so that no prompt in any language has an unknown word."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *sorted(ByteLevel.alphabet())])}
    tokenizer = Tokenizer(BPE(vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return fast_tokenizer(tokenizer, MAX_LENGTH)


def make_text_encoder(tokenizer: PreTrainedTokenizerFast) -> UMT5EncoderModel:
    config = UMT5Config(
        vocab_size=len(tokenizer),
        d_model=TEXT_DIM,
        d_kv=32,
        d_ff=128,
        num_layers=1,
        num_heads=2,
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return UMT5EncoderModel(config).eval()


def make_transformer(kind: Kind, **changes: Any) -> WanTransformer3DModel:
    """Make a random transformer of 0.5 M parameters; ``changes`` are keys of its configuration."""
    sizes: dict[str, Any] = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 3,
        "attention_head_dim": 32,
        "in_channels": kind.channels + (HELD_CHANNELS if kind.from_image else 0),
        "out_channels": kind.channels,
        "text_dim": TEXT_DIM,
        "freq_dim": 64,
        "ffn_dim": 256,
        "num_layers": 3,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
    }
    if kind.clip:
        sizes |= {"image_dim": IMAGE_DIM, "added_kv_proj_dim": 96}
    return WanTransformer3DModel(**sizes | changes)


def make_clip() -> dict[str, Any]:
    """Make the parts that turn a picture into CLIP's states: 17 tokens, where the published model has 257."""
    config = CLIPVisionConfig(
        hidden_size=IMAGE_DIM,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=PICTURE,
        patch_size=8,
    )
    size = {"height": PICTURE, "width": PICTURE}
    processor = CLIPImageProcessor(size=size, crop_size=size)
    return {"image_encoder": CLIPVisionModel(config).eval(), "image_processor": processor}


def make_pipeline(
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    vae: AutoencoderKLWan | None,
    kind: Kind = KINDS["2.1_t2v"],
    **transformer: Any,
) -> DiffusionPipeline:
    """Make a pipeline of ``tokenizer`` and ``vae`` with a random text encoder and one or two random transformers.

    ``transformer`` are keys of the transformers' configuration.
    """
    torch.manual_seed(seed)
    parts: dict[str, Any] = {
        "tokenizer": tokenizer,
        "text_encoder": make_text_encoder(tokenizer),
        "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=kind.shift),
        "transformer": make_transformer(kind, **transformer),
        "expand_timesteps": kind.levels_by_token,
    }
    if kind.boundary is not None:
        parts |= {"transformer_2": make_transformer(kind, **transformer), "boundary_ratio": kind.boundary}
    if kind.clip:
        parts |= make_clip()
    return (WanImageToVideoPipeline if kind.from_image else WanPipeline)(**parts)


def make_vae(seed: int, channels: int = LATENT_CHANNELS) -> AutoencoderKLWan:
    """Make a thin random VAE with Wan's own strides and channels: 4 x 8 x 8 and 16, or 4 x 16 x 16 and the 48 of Wan
    2.2 5B."""
    torch.manual_seed(seed)
    config: dict[str, Any] = {"base_dim": 8, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1}
    if channels != LATENT_CHANNELS:
        config |= {
            "decoder_base_dim": 12,
            "temperal_downsample": [False, True, True],
            "is_residual": True,
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "scale_factor_spatial": 16,
        }
    std = LATENT_STD if channels == LATENT_CHANNELS else LATENT_STD_48
    return AutoencoderKLWan(z_dim=channels, latents_mean=[0.0] * channels, latents_std=[std] * channels, **config)


def save(pipeline: DiffusionPipeline, folder: Path) -> None:
    pipeline.save_pretrained(folder)
    # transformers 5 writes class names that transformers 4 does not know; both know the older ones.
    for name in ("model_index.json", "tokenizer/tokenizer_config.json", "image_processor/preprocessor_config.json"):
        file = folder / name
        if file.is_file():
            text = file.read_text().replace('"TokenizersBackend"', '"PreTrainedTokenizerFast"')
            file.write_text(text.replace('"CLIPImageProcessorPil"', '"CLIPImageProcessor"'))


def draw(colour: str, direction: str, size: tuple[int, int]) -> np.ndarray:
    """Draw a square that moves one pixel per frame through the middle: uint8 [T, H, W, 3]."""
    frames = np.full((FRAMES, *size, 3), 24, np.uint8)
    for t, frame in enumerate(frames):
        top, left = (
            (n - SQUARE) // 2 + d * (t - FRAMES // 2) for n, d in zip(size, DIRECTIONS[direction], strict=True)
        )
        frame[max(top, 0) : top + SQUARE, max(left, 0) : left + SQUARE] = COLOURS[colour]
    return frames


def write_clips(folder: Path, count: int) -> None:
    """Write ``count`` clips, every other one upright, with captions beside them and in manifest.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = [(colour, direction) for colour in COLOURS for direction in DIRECTIONS]
    rows = []
    for number in range(count):
        colour, direction = kinds[number * 5 % len(kinds)]
        video = folder / f"{number:05d}.mp4"
        write_clip(video, draw(colour, direction, SHAPES[number % 2]), FPS)
        caption = f"a {colour} square moving {direction}"
        video.with_suffix(".txt").write_text(caption + "\n")
        rows.append(json.dumps({"video": video.name, "caption": caption}))
    (folder / "manifest.jsonl").write_text("\n".join(rows) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the pipeline folder to write")
    parser.add_argument("--kind", choices=KINDS, default="2.1_t2v", help="which of Wan's pipelines (2.1_t2v)")
    parser.add_argument("--clips", type=int, default=0, help="how many clips to write into FOLDER/clips (0)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    kind = KINDS[args.kind]
    pipeline = make_pipeline(byte_tokenizer(), args.seed, make_vae(args.seed, kind.channels), kind)
    save(pipeline, args.folder)
    if args.clips:
        write_clips(args.folder / "clips", args.clips)
    megabytes = sum(path.stat().st_size for path in args.folder.rglob("*") if path.is_file()) / 1e6
    print(f"{args.folder}: {megabytes:.1f} MB, Wan {args.kind}, random; {args.clips} clips")


if __name__ == "__main__":
    main()
