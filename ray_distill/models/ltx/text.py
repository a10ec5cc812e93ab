"""LTX-Video's prompts, as diffusers' LTXPipeline encodes them: uncleaned, by T5 v1.1, with a mask for the network."""

from __future__ import annotations

from pathlib import Path

from transformers import T5EncoderModel

from ray_distill.models.text import T5Text


def ltx_text(folder: Path, tokens: int, precision: str = "float32") -> T5Text:
    """The encoder. Its T5 sees the padding: the mask is the network's."""
    return T5Text(folder, tokens, precision, encoder=T5EncoderModel, masked=False)
