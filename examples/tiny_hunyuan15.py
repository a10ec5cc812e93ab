"""A complete HunyuanVideo 1.5 with random weights, 19 MB: it makes noise, and every part of it is the real class.

    python examples/tiny_hunyuan15.py models/tiny_hunyuan15 [--from-image] [--seed 0]

Writes a diffusers pipeline folder (transformer, AutoencoderKLHunyuanVideo15, Qwen2.5-VL's text model, ByT5, their
tokenizers, scheduler, guider; for image to video SigLIP and its processor, too) for trying a configuration of
HunyuanVideo 1.5 on a machine without one. Four million of its parameters are layers of a width that the class has
fixed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo15,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
)
from diffusers.guiders import ClassifierFreeGuidance
from tiny_wan import byte_tokenizer, save
from transformers import (
    ByT5Tokenizer,
    PreTrainedTokenizerFast,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
)

CHANNELS, WIDTH, GLYPHS = 8, 24, 12  # of latents; of the states of prompts and of quoted words
STATES, PICTURE = 32, 32  # width of SigLIP's states, and the square of pixels that it looks at
START = "<|im_start|>"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte. Its system message is 108 tokens long, as many as the pipeline cuts off."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [START]})
    tokenizer.chat_template = f"{{{{ '{START}' * 108 }}}}{{{{ messages[-1]['content'] }}}}</s>"
    return tokenizer


def make_text_encoder(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLTextModel:
    config = Qwen2_5_VLTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]},
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.eos_token_id,
    )
    return Qwen2_5_VLTextModel(config).eval()


def make_text_encoder_2() -> T5EncoderModel:
    config = T5Config(vocab_size=384, d_model=GLYPHS, d_kv=6, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0.0)
    return T5EncoderModel(config).eval()


def make_siglip() -> dict[str, Any]:
    """The parts that turn a picture into SigLIP's states: 4 tokens, as there are 729 of the published one."""
    config = SiglipVisionConfig(
        hidden_size=STATES,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=PICTURE,
        patch_size=PICTURE // 2,
    )
    processor = SiglipImageProcessor(size={"height": PICTURE, "width": PICTURE})
    return {"image_encoder": SiglipVisionModel(config).eval(), "feature_extractor": processor}


def make_transformer(layers: int = 2, task: str = "t2v") -> HunyuanVideo15Transformer3DModel:
    return HunyuanVideo15Transformer3DModel(
        in_channels=2 * CHANNELS + 1,
        out_channels=CHANNELS,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=layers,
        num_refiner_layers=1,
        text_embed_dim=WIDTH,
        text_embed_2_dim=GLYPHS,
        image_embed_dim=STATES,
        rope_axes_dim=(4, 6, 6),
        target_size=64,
        task_type=task,
    ).eval()


def make_pipeline(seed: int, from_image: bool = False) -> HunyuanVideo15Pipeline | HunyuanVideo15ImageToVideoPipeline:
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    parts: dict[str, Any] = dict(
        text_encoder=make_text_encoder(tokenizer),
        tokenizer=tokenizer,
        transformer=make_transformer(task="i2v" if from_image else "t2v"),
        vae=AutoencoderKLHunyuanVideo15(
            latent_channels=CHANNELS, block_out_channels=(16, 16, 32, 32, 32), layers_per_block=1
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        text_encoder_2=make_text_encoder_2(),
        tokenizer_2=ByT5Tokenizer(),
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
    )
    return (
        HunyuanVideo15ImageToVideoPipeline(**parts, **make_siglip()) if from_image else HunyuanVideo15Pipeline(**parts)
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the pipeline folder to write")
    parser.add_argument("--from-image", action="store_true", help="image to video in place of text to video")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    save(make_pipeline(args.seed, args.from_image), args.folder)
    for name in ("model_index.json", "feature_extractor/preprocessor_config.json"):
        file = args.folder / name  # without torchvision transformers writes a class that it does not know with it
        if file.is_file():
            file.write_text(file.read_text().replace('"SiglipImageProcessorPil"', '"SiglipImageProcessor"'))
    megabytes = sum(path.stat().st_size for path in args.folder.rglob("*") if path.is_file()) / 1e6
    print(f"{args.folder}: {megabytes:.1f} MB, HunyuanVideo 1.5, random")


if __name__ == "__main__":
    main()
