"""Encode prompts as diffusers' WanPipeline does: cleaned, by UMT5, with zeros behind the last token."""

from __future__ import annotations

from pathlib import Path

import ftfy  # noqa: F401 (without it diffusers' prompt_clean silently skips that step, which gives other tokens)
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from transformers import UMT5EncoderModel

from ray_distill.models.text import T5Text


def wan_text(folder: Path, tokens: int, precision: str = "float32") -> T5Text:
    return T5Text(folder, tokens, precision, encoder=UMT5EncoderModel, clean=prompt_clean)
