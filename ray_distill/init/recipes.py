"""Recipes: the shipped configurations for each family, task and goal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "configs"
GOALS = {
    "small": "the smallest network",
    "large": "the largest",
    "stream": "a causal student, chunk by chunk",
}
TASKS = {"t2v": "videos of text", "i2v": "videos that begin from a picture"}
RECIPES: Mapping[str, Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "wan2.1": {
        "t2v": {
            "small": ("wan2.1_1.3b/dmd",),
            "large": ("wan2.1_14b/dmd_shared_base", "wan2.1_14b/dmd"),
            "stream": ("wan2.1_1.3b/self_forcing",),
        },
        "i2v": {"large": ("wan2.1_i2v_14b/dmd",)},
    },
    "wan2.2": {
        "t2v": {
            "small": ("wan2.2_5b/dmd_shared_base", "wan2.2_5b/dmd", "wan2.2_5b/dmd_int8"),
            "large": ("wan2.2_a14b/dmd_phased_lora", "wan2.2_a14b/dmd_phased"),
            "stream": ("wan2.2_5b/self_forcing",),
        },
        "i2v": {"small": ("wan2.2_5b/dmd_i2v",), "large": ("wan2.2_a14b/dmd_phased_i2v",)},
    },
    "ltx": {"t2v": {"small": ("ltx/dmd",)}},
    "ltx2": {"t2v": {"large": ("ltx2/dmd_shared_base",)}, "i2v": {"large": ("ltx2/dmd_i2v",)}},
    "hunyuan15": {"t2v": {"large": ("hunyuan15/dmd",)}, "i2v": {"large": ("hunyuan15/dmd_i2v",)}},
    "cogvideox": {"t2v": {"large": ("cogvideox/dmd",)}},
}
"""Family -> task -> goal -> files of one network, those with the least memory traffic and state first. The first task
and the first goal are the defaults."""


@dataclass(frozen=True)
class Recipe:
    """A shipped configuration; ``name`` is its path below configs/, without the suffix."""

    name: str

    @property
    def text(self) -> str:
        return (FOLDER / f"{self.name}.yaml").read_text(encoding="utf-8")

    @property
    def head(self) -> list[str]:
        """Lines of the comment at its top, without their signs."""
        lines = self.text.splitlines()
        end = next(n for n, line in enumerate(lines) if not line.startswith("#"))
        return [line[1:].strip() for line in lines[:end]]

    @property
    def body(self) -> str:
        return self.text.split("\n", len(self.head))[-1]

    @property
    def download(self) -> str:
        """The command that downloads its model, from the comment at its top."""
        text = re.sub(r"\\\n\s*", "", "\n".join(self.head))
        return next(" ".join(line.split()) for line in text.splitlines() if line.startswith("hf download"))
