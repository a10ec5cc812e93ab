"""Real networks behind Denoiser, and the registry of their families.

A family has a folder of its own; the files beside the folders serve all of them, and know none.
"""

from __future__ import annotations

import importlib
from typing import Any

FAMILIES = {"wan": "ray_distill.models.wan.network.Wan", "ltx": "ray_distill.models.ltx.network.LTX"}


def family(name: str) -> Any:
    """The adapter class of a family; imported on use, since diffusers takes seconds and a configuration needs names."""
    module, _, attribute = FAMILIES[name].rpartition(".")
    return getattr(importlib.import_module(module), attribute)
