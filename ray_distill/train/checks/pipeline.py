"""The folder of a pipeline: what makes latents and text beside its transformer."""

from __future__ import annotations

from pathlib import Path

from ray_distill.config import ConfigError


def check_parts(folder: Path) -> None:
    """What makes latents and embeddings is there, beside the transformer."""
    parts = ("vae/config.json", "text_encoder/config.json", "tokenizer/tokenizer_config.json")
    if missing := [part for part in parts if not (folder / part).is_file()]:
        raise ConfigError(
            f"model.path = {folder}: no {', '.join(missing)} there. Give a whole pipeline folder in diffusers format"
        )
