"""Encode prompts as diffusers' LTX2Pipeline does: Gemma 3's hidden states of all layers, then the connectors.

The connectors replace padding by learned registers, so that a caption's fields have no padding and no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from transformers import Gemma3ForConditionalGeneration

from ray_distill.models.spec import Row
from ray_distill.models.text import load_tokenizer


class LTX2Text:
    """Encoder of prompts into the fields "text" and "audio_text" [tokens, D] fp32. ``precision`` is the dtype in which
    Gemma and the connectors compute; ValueError for int8."""

    def __init__(self, folder: Path, max_length: int, precision: str = "float32") -> None:
        if precision == "int8":
            raise ValueError(
                "model.text_encoder_precision = int8: LTX-2's Gemma is read in float32 or bfloat16; use bfloat16"
            )
        self.max_length = max_length
        self.tokenizer = load_tokenizer(Path(folder) / "tokenizer")
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        how: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
        model = Gemma3ForConditionalGeneration.from_pretrained(Path(folder) / "text_encoder", dtype=dtype, **how)
        connectors = LTX2TextConnectors.from_pretrained(Path(folder) / "connectors", torch_dtype=dtype, **how)
        self.model, self.connectors = model.eval().requires_grad_(False), connectors.eval().requires_grad_(False)

    def to(self, device: torch.device | str) -> Self:
        self.model.to(device)
        self.connectors.to(device)
        return self

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> list[Row]:
        """One row of ``max_length`` tokens per prompt."""
        tokens = self.tokenizer(
            [prompt.strip() for prompt in prompts],
            padding="max_length",
            max_length=self.max_length,
            truncation=True,
            add_special_tokens=True,
            return_tensors="pt",
        ).to(self.model.device)
        mask = tokens.attention_mask
        output = self.model(input_ids=tokens.input_ids, attention_mask=mask, output_hidden_states=True)
        states = torch.stack(output.hidden_states, dim=-1).flatten(2, 3).to(self.model.dtype)
        video, audio, _ = self.connectors(states, mask, padding_side="left")
        return [{"text": one, "audio_text": two} for one, two in zip(video.float(), audio.float(), strict=True)]

    def tokens(self, prompts: Sequence[str]) -> list[int]:
        """The number of tokens of each prompt; ``encode`` cuts those beyond ``max_length``."""
        return [len(ids) for ids in self.tokenizer([prompt.strip() for prompt in prompts], verbose=False).input_ids]
