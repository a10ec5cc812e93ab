"""Real networks behind Denoiser, and the registry of their families.

A family has a folder of its own, and its `family` module one value, FAMILY; the files beside the folders serve all
families, and know none (`causal` apart, which says why). They run wherever a network does: on workers, in Ray's
actors, on the driver on the meta device.
May import: diffusion, types and the leaves; diffusers and transformers nowhere else but in exports' checks and scripts.
docs/families.md says file by file what a new family owes.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from ray_distill.models.spec import Family

FAMILIES = {
    "wan": "ray_distill.models.wan.family",
    "ltx": "ray_distill.models.ltx.family",
    "ltx2": "ray_distill.models.ltx2.family",
    "cogvideox": "ray_distill.models.cogvideox.family",
    "hunyuan15": "ray_distill.models.hunyuan15.family",
}


def family(name: str) -> Family:
    """The family ``name``. It is imported on first use, since diffusers takes seconds and a configuration needs names
    alone."""
    declared: Family = importlib.import_module(FAMILIES[name]).FAMILY
    return declared


def families() -> Iterator[Family]:
    return map(family, FAMILIES)


def family_of(transformer: str) -> Family | None:
    """The family of a transformer's class; None for other classes."""
    return next((each for each in families() if each.transformer.__name__ == transformer), None)
