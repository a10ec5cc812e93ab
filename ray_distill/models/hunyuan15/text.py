"""HunyuanVideo 1.5's prompts: Qwen2.5-VL's states of a prompt, and ByT5's of the words that it quotes.

As diffusers' HunyuanVideo15Pipeline encodes them, the first behind a system message. A prompt without quotes has no
tokens of the second kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import HunyuanVideo15Pipeline
from diffusers.pipelines.hunyuan_video1_5.pipeline_hunyuan_video1_5 import format_text_input
from transformers import Qwen2_5_VLTextModel, T5EncoderModel

from ray_distill.models.hunyuan15.family import GLYPHS
from ray_distill.models.spec import Row
from ray_distill.models.text import load_tokenizer

MESSAGE = 108
"""Tokens of the system message, which the pipeline cuts off."""


class HunyuanText:
    """The fields "text" and "glyphs" [tokens, D] fp32 of a prompt. ``precision`` is the dtype of computation;
    ValueError for int8."""

    def __init__(self, folder: Path, max_length: int, precision: str = "float32") -> None:
        if precision == "int8":
            raise ValueError(
                "model.text_encoder_precision = int8: HunyuanVideo 1.5's Qwen2.5-VL is read in float32 or bfloat16; "
                "use bfloat16"
            )
        self.max_length = max_length
        self.tokenizer, self.tokenizer_2 = (load_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2"))
        how: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
        how["dtype"] = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.model = Qwen2_5_VLTextModel.from_pretrained(folder / "text_encoder", **how).eval().requires_grad_(False)
        self.model_2 = T5EncoderModel.from_pretrained(folder / "text_encoder_2", **how).eval().requires_grad_(False)

    def to(self, device: torch.device | str) -> Self:
        self.model.to(device)
        self.model_2.to(device)
        return self

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> list[Row]:
        """One row a prompt, of its tokens alone."""
        device = self.model.device
        words, words_mask = HunyuanVideo15Pipeline._get_mllm_prompt_embeds(
            self.model, self.tokenizer, list(prompts), device, self.max_length, crop_start=MESSAGE
        )
        glyphs, glyphs_mask = HunyuanVideo15Pipeline._get_byt5_prompt_embeds(
            self.tokenizer_2, self.model_2, list(prompts), device, GLYPHS
        )
        rows = zip(words.float(), words_mask.bool(), glyphs.float(), glyphs_mask.bool(), strict=True)
        return [{"text": text[valid], "glyphs": other[quoted]} for text, valid, other, quoted in rows]

    def tokens(self, prompts: Sequence[str]) -> list[int]:
        """The number of tokens of each prompt, without the system message; ``encode`` cuts those beyond
        ``max_length``."""
        asked = format_text_input(list(prompts), HunyuanVideo15Pipeline._get_mllm_prompt_embeds.__defaults__[2])
        ids = self.tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
        return [len(each) - MESSAGE for each in ids]
