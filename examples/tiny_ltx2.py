"""Make a complete LTX-2.0 of a few MB with random weights: it samples visible and audible noise by the real classes.

    python examples/tiny_ltx2.py models/tiny_ltx2 [--seed 0]

It writes a diffusers pipeline folder (transformer, the VAEs of picture and sound, vocoder, Gemma 3 text encoder,
connectors, tokenizer, scheduler) for trying a configuration of LTX-2 on a machine without one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
)
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from tiny_wan import byte_tokenizer, save
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, PreTrainedTokenizerFast

CHANNELS, WIDTH, LAYERS = 32, 16, 2  # of latents: 32 x t x h x w, and sound of 2 channels x 16 bands; of Gemma
REGISTERS = 8


def make_text_encoder(tokenizer: PreTrainedTokenizerFast) -> Gemma3ForConditionalGeneration:
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "sliding_window": 1024,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=2)
    return Gemma3ForConditionalGeneration(config).eval()


def make_connectors() -> LTX2TextConnectors:
    one = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "num_learnable_registers": REGISTERS}
    both = {f"{of}_connector_{name}": value for of in ("video", "audio") for name, value in one.items()}
    return LTX2TextConnectors(caption_channels=WIDTH, text_proj_in_factor=LAYERS + 1, rope_type="split", **both).eval()


def make_transformer(layers: int = 2) -> LTX2VideoTransformer3DModel:
    """Make a random transformer; ``rope_type`` is the published one, not the class's default."""
    return LTX2VideoTransformer3DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        audio_in_channels=CHANNELS,
        audio_out_channels=CHANNELS,
        audio_num_attention_heads=2,
        audio_attention_head_dim=8,
        audio_cross_attention_dim=16,
        num_layers=layers,
        caption_channels=WIDTH,
        rope_type="split",
    ).eval()


def make_vae(channels: int = CHANNELS) -> AutoencoderKLLTX2Video:
    vae = AutoencoderKLLTX2Video(
        latent_channels=channels,
        block_out_channels=(8, 16, 16, 16),
        decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    ).eval()
    vae.latents_mean.fill_(0.3)  # buffers of the weights, and no keys of the configuration
    vae.latents_std.fill_(2.0)
    return vae


def make_audio_vae(channels: int = CHANNELS) -> AutoencoderKLLTX2Audio:
    """Make the VAE of sound; ``base_channels`` is also the number of means, since the class uses it as the width of a
    packed token."""
    sizes = {"base_channels": channels, "latent_channels": channels // 16, "mel_bins": 64}
    vae = AutoencoderKLLTX2Audio(num_res_blocks=1, **sizes).eval()
    vae.latents_mean.fill_(-0.2)
    vae.latents_std.fill_(1.5)
    return vae


def make_pipeline(seed: int) -> LTX2Pipeline:
    torch.manual_seed(seed)
    tokenizer = byte_tokenizer()
    return LTX2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True,
            base_shift=0.95,
            max_shift=2.05,
            base_image_seq_len=1024,
            max_image_seq_len=4096,
            shift_terminal=0.1,
        ),
        vae=make_vae(),
        audio_vae=make_audio_vae(),
        text_encoder=make_text_encoder(tokenizer),
        tokenizer=tokenizer,
        connectors=make_connectors(),
        transformer=make_transformer(),
        vocoder=LTX2Vocoder(hidden_channels=32, resnet_kernel_sizes=[3], resnet_dilations=[[1, 3]]).eval(),
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the pipeline folder to write")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    save(make_pipeline(args.seed), args.folder)
    megabytes = sum(path.stat().st_size for path in args.folder.rglob("*") if path.is_file()) / 1e6
    print(f"{args.folder}: {megabytes:.1f} MB, LTX-2.0, random")


if __name__ == "__main__":
    main()
