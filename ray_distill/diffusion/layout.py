"""Place of the sound in packed latents, as Cond says it (``models/packed.py``). Light to import."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray_distill.types import Cond

LAYOUT = "layout"
"""The name in Cond of an empty tensor [B, 0, t, h, w, L], whose shape is the message. It costs no memory and no copy,
and the two branches of guidance concatenate it as any tensor of Cond."""


def sound_start(cond: Cond) -> int | None:
    """The first place of sound along T of packed latents; None for clips without sound."""
    return math.prod(cond[LAYOUT].shape[2:5]) if LAYOUT in cond else None
