"""Tiny random networks of the real classes, saved as transformers saves them."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    PreTrainedTokenizerFast,
    VideoMAEConfig,
    VideoMAEModel,
    VJEPA2Config,
    VJEPA2Model,
)

SIDE = 28
WORDS = ("<|startoftext|>", "<|endoftext|>", "a", "red", "blue", "seven", "moving", "left")
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def dinov2(folder: Path) -> Path:
    # Random networks see little: wide weights make their features differ.
    torch.manual_seed(0)
    config = Dinov2Config(**SMALL, image_size=SIDE, patch_size=14, initializer_range=0.3, mlp_ratio=2)
    Dinov2Model(config).save_pretrained(folder)
    return prepared(folder, size=SIDE, crop=SIDE)


def clip(folder: Path) -> Path:
    torch.manual_seed(1)
    text = {**SMALL, "intermediate_size": 64, "vocab_size": len(WORDS), "max_position_embeddings": 16}
    text |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    vision = {**SMALL, "intermediate_size": 64, "image_size": SIDE, "patch_size": 14}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=24, initializer_factor=8.0)
    CLIPModel(config).save_pretrained(folder)
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="a"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single=f"{WORDS[0]} $A {WORDS[1]}", special_tokens=[(WORDS[0], 0), (WORDS[1], 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=WORDS[0], eos_token=WORDS[1], pad_token=WORDS[1], model_max_length=16
    )
    tokenizer.save_pretrained(folder)
    return prepared(folder, size=SIDE, crop=SIDE, resample=3)


def videomae(folder: Path) -> Path:
    torch.manual_seed(2)
    config = VideoMAEConfig(
        **SMALL, intermediate_size=64, image_size=32, patch_size=16, num_frames=4, initializer_range=0.3
    )
    VideoMAEModel(config).save_pretrained(folder)
    return prepared(folder, size=32, crop=32)


def vjepa2(folder: Path) -> Path:
    torch.manual_seed(3)
    config = VJEPA2Config(
        **SMALL | {"hidden_size": 48}, crop_size=32, patch_size=16, frames_per_clip=4, pred_hidden_size=48,
        pred_num_attention_heads=2, pred_num_hidden_layers=1, initializer_range=0.3,
    )  # fmt: skip
    VJEPA2Model(config).save_pretrained(folder)
    return prepared(folder, size=36, crop=32, name="video_preprocessor_config.json")


def prepared(folder: Path, size: int, crop: int, resample: int = 2, name: str = "preprocessor_config.json") -> Path:
    content = {"size": {"shortest_edge": size}, "crop_size": {"height": crop, "width": crop}, "do_center_crop": True}
    content |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3], "resample": resample}
    content |= {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    (folder / name).write_text(json.dumps(content))
    return folder


def processor(folder: Path) -> CLIPImageProcessor:
    """transformers' own preparation of the folder's frames."""
    return CLIPImageProcessor.from_pretrained(folder)


MAKE = {"dinov2": dinov2, "clip": clip, "videomae": videomae, "vjepa2": vjepa2}


class Colours:
    """A judge whose features are the mean colour of a frame, and the colour's word in a prompt."""

    def image_features(self, shown: np.ndarray) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.from_numpy(shown.mean((1, 2))), dim=-1)

    def text_features(self, prompts: Sequence[str]) -> torch.Tensor:
        return torch.stack([torch.eye(3, dtype=torch.float64)[("red", "green", "blue").index(p)] for p in prompts])
