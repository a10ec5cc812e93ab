"""Make a complete CogVideoX of a few MB with random weights: it samples noise, but every part is the real class.

    python examples/tiny_cogvideox.py models/tiny_cogvideox [--kind 2b] [--seed 0]

It writes a diffusers pipeline folder (transformer, AutoencoderKLCogVideoX, T5 text encoder, tokenizer, scheduler) for
trying a configuration of CogVideoX on a machine without one. ``--kind`` chooses the model: 5B
has rotary positions, 2B adds sinusoids to its tokens, and their noise levels differ.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from tiny_wan import byte_tokenizer, save
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

CHANNELS, WIDTH, TOKENS = 4, 24, 16  # of latents; of T5's states; of a prompt, 226 in the published ones
KINDS = {"5b": (True, 1.0, 0.7), "2b": (False, 3.0, 1.15258426)}  # rotary positions, snr_shift_scale, scaling_factor


def make_text_encoder(tokenizer: PreTrainedTokenizerFast) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        d_kv=12,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return T5EncoderModel(config).eval()


def make_transformer(kind: str = "5b", layers: int = 2) -> CogVideoXTransformer3DModel:
    return CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        time_embed_dim=32,
        text_embed_dim=WIDTH,
        num_layers=layers,
        sample_width=12,
        sample_height=8,
        sample_frames=9,
        max_text_seq_length=TOKENS,
        use_rotary_positional_embeddings=KINDS[kind][0],
    ).eval()


def make_vae(kind: str) -> AutoencoderKLCogVideoX:
    return AutoencoderKLCogVideoX(
        latent_channels=CHANNELS,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=KINDS[kind][2],
    ).eval()


def make_scheduler(kind: str) -> CogVideoXDDIMScheduler:
    """Make the published scheduler: levels of 1000 timesteps, the last of them without signal."""
    return CogVideoXDDIMScheduler(
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        snr_shift_scale=KINDS[kind][1],
    )


def make_pipeline(kind: str, seed: int) -> CogVideoXPipeline:
    torch.manual_seed(seed)
    tokenizer = byte_tokenizer()
    return CogVideoXPipeline(
        tokenizer=tokenizer,
        text_encoder=make_text_encoder(tokenizer),
        vae=make_vae(kind),
        transformer=make_transformer(kind),
        scheduler=make_scheduler(kind),
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the pipeline folder to write")
    parser.add_argument("--kind", choices=KINDS, default="5b")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    save(make_pipeline(args.kind, args.seed), args.folder)
    megabytes = sum(path.stat().st_size for path in args.folder.rglob("*") if path.is_file()) / 1e6
    print(f"{args.folder}: {megabytes:.1f} MB, CogVideoX {args.kind}, random")


if __name__ == "__main__":
    main()
