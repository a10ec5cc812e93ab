"""Write checkpoints in tests, and wait for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ray_distill.checkpoint.writer import Gather, Writing


def write(
    folder: Path,
    tensors: Iterable[tuple[str, str, Tensor]],
    state: Mapping[str, Any],
    rank: int,
    world: int,
    gather: Gather,
    own: Iterable[tuple[str, str, Tensor]] = (),
) -> None:
    """Write a checkpoint, and wait for it; the arguments are those of Writing."""
    Writing(folder, tensors, state, rank, world, gather, own=own).finish()
