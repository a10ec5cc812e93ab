"""A complete Wan of a few MB with random weights: it makes noise, and every part of it is the real class.

    python examples/tiny_wan.py models/tiny_wan [--clips 8] [--seed 0]

Writes a diffusers pipeline folder (transformer, AutoencoderKLWan, UMT5 text encoder, tokenizer, scheduler) for trying a
configuration of a large Wan on a machine without one. ``--clips`` adds ``clips/``: squares that move, of two shapes,
each with its caption in a text file beside it and all in ``manifest.jsonl``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from ray_distill.data.read.video import write_clip

SPECIAL = ("<pad>", "</s>", "<unk>")
TEXT_DIM, LATENT_CHANNELS, MAX_LENGTH = 64, 16, 512
LATENT_STD = 0.18  # of what a random encoder makes of videos
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 80, 230), "yellow": (230, 210, 40)}
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
SHAPES, FRAMES, SQUARE, FPS = ((48, 80), (80, 48)), 25, 16, 16


def fast_tokenizer(tokenizer: Tokenizer, max_length: int) -> PreTrainedTokenizerFast:
    """As T5's tokenizer: ``</s>`` at the end of each prompt, ``<pad>`` behind it."""
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
    """One token a byte of UTF-8, so that no prompt of any language has an unknown word."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *sorted(ByteLevel.alphabet())])}
    tokenizer = Tokenizer(BPE(vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return fast_tokenizer(tokenizer, MAX_LENGTH)


def make_pipeline(
    tokenizer: PreTrainedTokenizerFast, seed: int, vae: AutoencoderKLWan | None, **transformer: Any
) -> WanPipeline:
    """A random text encoder and a random transformer of 0.5 M parameters around ``tokenizer`` and ``vae``."""
    torch.manual_seed(seed)
    text_encoder = UMT5EncoderModel(
        UMT5Config(
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
    )
    sizes: dict[str, Any] = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 3,
        "attention_head_dim": 32,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "text_dim": TEXT_DIM,
        "freq_dim": 64,
        "ffn_dim": 256,
        "num_layers": 3,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
    }
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder.eval(),
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=WanTransformer3DModel(**sizes | transformer),
    )


def make_vae(seed: int) -> AutoencoderKLWan:
    """Wan's own strides, 4 in time and 8 in space, and its 16 channels; thin and random."""
    torch.manual_seed(seed)
    return AutoencoderKLWan(
        base_dim=8,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[LATENT_STD] * LATENT_CHANNELS,
    )


def save(pipeline: WanPipeline, folder: Path) -> None:
    pipeline.save_pretrained(folder)
    # transformers 5 writes a class name that transformers 4 does not know; both know the older one.
    for file in (folder / "model_index.json", folder / "tokenizer" / "tokenizer_config.json"):
        file.write_text(file.read_text().replace('"TokenizersBackend"', '"PreTrainedTokenizerFast"'))


def draw(colour: str, direction: str, size: tuple[int, int]) -> np.ndarray:
    """A square that moves a pixel a frame through the middle -> uint8 [T, H, W, 3]."""
    frames = np.full((FRAMES, *size, 3), 24, np.uint8)
    for t, frame in enumerate(frames):
        top, left = (
            (n - SQUARE) // 2 + d * (t - FRAMES // 2) for n, d in zip(size, DIRECTIONS[direction], strict=True)
        )
        frame[max(top, 0) : top + SQUARE, max(left, 0) : left + SQUARE] = COLOURS[colour]
    return frames


def write_clips(folder: Path, count: int) -> None:
    """``count`` clips, every other one upright; captions beside them and in manifest.jsonl."""
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
    parser.add_argument("--clips", type=int, default=0, help="how many clips to write into FOLDER/clips (0)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    pipeline = make_pipeline(byte_tokenizer(), args.seed, make_vae(args.seed))
    save(pipeline, args.folder)
    if args.clips:
        write_clips(args.folder / "clips", args.clips)
    megabytes = sum(path.stat().st_size for path in args.folder.rglob("*") if path.is_file()) / 1e6
    print(f"{args.folder}: {megabytes:.1f} MB, random; {args.clips} clips")


if __name__ == "__main__":
    main()
