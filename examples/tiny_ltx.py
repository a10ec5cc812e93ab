"""Make a complete LTX-Video of a few MB with random weights: it samples noise, but every part is the real class.

    python examples/tiny_ltx.py models/LTX-Video [--seed 0]

It writes a diffusers pipeline folder (transformer, AutoencoderKLLTXVideo, T5 text encoder, tokenizer, scheduler) for
trying a configuration of LTX-Video on a machine without one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from tiny_cogvideox import WIDTH, make_text_encoder
from tiny_wan import byte_tokenizer, save

CHANNELS, WIDTHS = 4, (8, 8, 8, 8)


def make_transformer(layers: int = 2) -> LTXVideoTransformer3DModel:
    return LTXVideoTransformer3DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=WIDTH,
        num_layers=layers,
    ).eval()


def make_vae() -> AutoencoderKLLTXVideo:
    return AutoencoderKLLTXVideo(
        latent_channels=CHANNELS,
        block_out_channels=WIDTHS,
        decoder_block_out_channels=WIDTHS,
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    ).eval()


def make_pipeline(seed: int) -> LTXPipeline:
    torch.manual_seed(seed)
    tokenizer = byte_tokenizer()
    return LTXPipeline(
        tokenizer=tokenizer,
        text_encoder=make_text_encoder(tokenizer),
        vae=make_vae(),
        transformer=make_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the pipeline folder to write")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    save(make_pipeline(args.seed), args.folder)
    megabytes = sum(path.stat().st_size for path in args.folder.rglob("*") if path.is_file()) / 1e6
    print(f"{args.folder}: {megabytes:.1f} MB, LTX-Video, random")


if __name__ == "__main__":
    main()
