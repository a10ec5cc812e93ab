"""Encode prompts as diffusers' CogVideoXPipeline does: uncleaned, by T5 v1.1, including the padding.

T5 sees the padding, and the network attends to T5's states of the padding, which are not zero: zeros in their place, or
another number of tokens, would be another condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import T5EncoderModel

from ray_distill.models.spec import Row
from ray_distill.models.text import T5Text


class CogVideoXText(T5Text):
    """Encoder of prompts into the field "text" [tokens, D] fp32."""

    def __init__(self, folder: Path, max_length: int, precision: str = "float32") -> None:
        super().__init__(folder, max_length, precision, encoder=T5EncoderModel, use_mask=False)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> list[Row]:
        """One row of ``max_length`` tokens per prompt."""
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.max_length,
            truncation=True,
            add_special_tokens=True,
            return_tensors="pt",
        ).input_ids.to(self.model.device)
        return [{"text": states} for states in self.model(tokens).last_hidden_state.float()]
