"""Names of layers in LoRA files: those of the network's original code."""

from __future__ import annotations

from collections.abc import Mapping

COMFYUI, KOHYA = "diffusion_model", "lora_unet"
"""The first parts of names in adapters for ComfyUI and for Kohya's scripts."""


def renamed(name: str, names: Mapping[str, str]) -> str | None:
    """``name`` with the first of ``names`` that is a whole dotted part of it replaced; None where there is none."""
    for ours, theirs in names.items():
        if f".{ours}." in f".{name}.":
            return f".{name}.".replace(f".{ours}.", f".{theirs}.").strip(".")
    return None
