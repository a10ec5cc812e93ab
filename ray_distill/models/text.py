"""Encode prompts as diffusers' WanPipeline and LTXPipeline do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ftfy  # noqa: F401 (where it is not there, diffusers' prompt_clean leaves it out: other tokens without a word)
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
        self.tokenizer = _tokenizer(Path(folder) / "tokenizer")
        kind = json.loads((Path(folder) / "text_encoder/config.json").read_text())["model_type"]
        self.of_ltx = kind == "t5"  # LTX-Video's; Wan's is UMT5
        encoder = T5EncoderModel if self.of_ltx else UMT5EncoderModel
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
            self._cleaned(prompts),
            padding="max_length",
            max_length=self.max_length,
            truncation=True,
            add_special_tokens=True,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(self.model.device)
        # LTX-Video's text was encoded without a mask: its network has one instead.
        hidden = self.model(tokens.input_ids, None if self.of_ltx else tokens.attention_mask).last_hidden_state.float()
        # Behind the mask T5 still computes something. Wan was trained with zeros there, and it attends to all of them.
        # torch.where, not a product: 0 x inf would be nan.
        return torch.where(tokens.attention_mask.bool()[..., None], hidden, 0.0)

    def tokens(self, prompts: Sequence[str]) -> list[int]:
        """The number of tokens of each prompt; ``encode`` cuts those beyond ``max_length``."""
        return [len(ids) for ids in self.tokenizer(self._cleaned(prompts), verbose=False).input_ids]

    def _cleaned(self, prompts: Sequence[str]) -> list[str]:
        """As the pipelines do it: Wan's mends mojibake and curly quotes, LTX-Video's takes prompts as they are."""
        return list(prompts) if self.of_ltx else [prompt_clean(prompt) for prompt in prompts]


def _tokenizer(folder: Path) -> Any:
    """ValueError where it is code of its own: no code out of a model's folder is run."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"{folder}: its tokenizer is Python code of its own, which is not run; use a plain one"
        ) from None
