"""Encode prompts as diffusers' WanPipeline does: cleaned, by UMT5, with zeros behind the last token."""

from __future__ import annotations

import html
from pathlib import Path

import ftfy
from transformers import UMT5EncoderModel

from ray_distill.models.text import T5Text


def wan_text(folder: Path, tokens: int, precision: str = "float32") -> T5Text:
    return T5Text(folder, tokens, precision, encoder=UMT5EncoderModel, clean=clean)


def clean(prompt: str) -> str:
    """``prompt`` with its encoding mended, its HTML entities resolved, twice, and single spaces, as Wan's was trained
    and ``prompt_clean`` of diffusers' WanPipeline has it, whose import takes a second and a half."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())
