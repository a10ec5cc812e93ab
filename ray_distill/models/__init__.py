"""Real networks behind Denoiser, and the registry of their families."""

from __future__ import annotations

import importlib
from typing import Any

FAMILIES = {"wan": "ray_distill.models.wan.Wan", "ltx": "ray_distill.models.ltx.LTX"}


def family(name: str) -> Any:
    """The adapter class of a family; imported on use, since diffusers takes seconds and a configuration needs names."""
    module, _, attribute = FAMILIES[name].rpartition(".")
    return getattr(importlib.import_module(module), attribute)
