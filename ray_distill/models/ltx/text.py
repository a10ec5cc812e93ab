"""Encode prompts as diffusers' LTXPipeline does: uncleaned, by T5 v1.1, with a mask for the network."""

from __future__ import annotations

from pathlib import Path

from transformers import T5EncoderModel

from ray_distill.models.text import T5Text


def ltx_text(folder: Path, tokens: int, precision: str = "float32") -> T5Text:
    """The text encoder. Its T5 sees the padding; only the network uses the mask."""
    return T5Text(folder, tokens, precision, encoder=T5EncoderModel, use_mask=False)
