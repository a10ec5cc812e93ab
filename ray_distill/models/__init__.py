"""Real networks behind Denoiser, and the registry of their families.

A family has its own folder, whose `family` module defines FAMILY; the files beside the folders serve all families and
name none, except `causal`, which says why. They run wherever a network runs: on workers, in Ray's actors, and on the
driver on the meta device.
May import: diffusion, types, the leaves, diffusers and transformers; outside this folder only exports' checks and
scripts import the last two.
docs/families.md says file by file what a new family owes.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator

from ray_distill.models.spec import Family

FAMILIES = {
    "wan": "ray_distill.models.wan.family",
    "ltx": "ray_distill.models.ltx.family",
    "ltx2": "ray_distill.models.ltx2.family",
    "cogvideox": "ray_distill.models.cogvideox.family",
    "hunyuan15": "ray_distill.models.hunyuan15.family",
}
OTHER_NAMES = {"ltx2": "ltx2", "ltx": "ltx", "wan": "wan", "cogvideo": "cogvideox", "hunyuan": "hunyuan15"}
"""Families by the beginnings of names in other tools, letters and digits alone; the longer beginning first."""


def alike_family(name: str) -> str | None:
    """The family that another name of it means, such as ``ltxvideo`` or ``wan2.2``."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((own for sign, own in OTHER_NAMES.items() if plain.startswith(sign)), None)


def family(name: str) -> Family:
    """The family ``name``, imported on first use: a configuration needs only names."""
    declared: Family = importlib.import_module(FAMILIES[name]).FAMILY
    return declared


def families() -> Iterator[Family]:
    return map(family, FAMILIES)


def family_of(transformer: str) -> Family | None:
    """The family whose transformer has this class name; None for other classes."""
    return next((each for each in families() if each.transformer_name == transformer), None)
