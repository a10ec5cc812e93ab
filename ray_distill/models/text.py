"""Prompts to the text conditioning that denoisers read, equal to what diffusers' WanPipeline computes; LTX-Video's T5
beside Wan's UMT5."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from torch import Tensor
from transformers import AutoTokenizer, T5EncoderModel, UMT5EncoderModel

from ray_distill.models.int8 import quantize


class TextEncoder:
    """The ``tokenizer`` and ``text_encoder`` of a pipeline folder; ``max_length`` tokens a prompt, padding included.
    ``int8`` holds the weights of its blocks so."""

    def __init__(self, folder: Path, max_length: int, int8: bool = False) -> None:
        for part in ("tokenizer", "text_encoder"):
            if not (Path(folder) / part).is_dir():
                raise FileNotFoundError(f"{folder} has no {part}/: it must be a diffusers pipeline folder")
        self.max_length = max_length
        self.tokenizer = AutoTokenizer.from_pretrained(Path(folder) / "tokenizer", local_files_only=True)
        kind = json.loads((Path(folder) / "text_encoder/config.json").read_text())["model_type"]
        encoder = T5EncoderModel if kind == "t5" else UMT5EncoderModel  # LTX-Video's and Wan's
        model = encoder.from_pretrained(Path(folder) / "text_encoder", local_files_only=True, use_safetensors=True)
        self.model = model.eval().requires_grad_(False)
        if int8:
            quantize(self.model)

    def to(self, device: torch.device | str) -> TextEncoder:
        self.model.to(device)
        return self

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """fp32 [B, max_length, D], zero behind each prompt's last token; longer prompts are cut."""
        tokens = self.tokenizer(
            [prompt_clean(prompt) for prompt in prompts],
            padding="max_length",
            max_length=self.max_length,
            truncation=True,
            add_special_tokens=True,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(self.model.device)
        hidden = self.model(tokens.input_ids, tokens.attention_mask).last_hidden_state.float()
        # Behind the mask T5 still computes something. Wan was trained with zeros there, and it attends to all of them.
        # torch.where, not a product: 0 x inf would be nan.
        return torch.where(tokens.attention_mask.bool()[..., None], hidden, 0.0)
