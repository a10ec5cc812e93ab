"""Writing: tensor by tensor, each by the rank whose turn it is, the manifest last."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ray_distill.checkpoint.layout import MANIFEST, STATE, file_name, fingerprint

PART_BYTES = 1 << 30
Fingerprints = dict[str, dict[str, int | str]]


def write(
    folder: Path,
    tensors: Iterable[tuple[str, str, Tensor]],
    state: Mapping[str, Any],
    rank: int,
    world: int,
    gather: Callable[[Fingerprints], list[Fingerprints]],
) -> None:
    """Write this rank's part of a checkpoint into ``folder`` (a folder of its own, or one that all ranks share).

    ``tensors`` yields (role, "kind/parameter", whole tensor) in the same order on all ranks, since making a tensor
    whole is a collective; each tensor is kept by one rank. ``gather`` collects every rank's value on all ranks:
    the manifest names all files, so that a checkpoint with one missing is recognised.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pending: dict[str, dict[str, Tensor]] = {}
    written: list[str] = []

    def flush(role: str) -> None:
        name = file_name(role, rank, len(written))
        save_file(pending.pop(role), folder / name)
        written.append(name)

    for index, (role, name, tensor) in enumerate(tensors):
        if index % world == rank:
            kept = pending.setdefault(role, {})
            kept[name] = tensor.detach().cpu().contiguous()
            if sum(t.nbytes for t in kept.values()) >= PART_BYTES:
                flush(role)
    for role in list(pending):
        flush(role)
    if rank == 0:
        (folder / STATE).write_text(json.dumps(state, indent=1))
        written.append(STATE)
    every = gather({name: fingerprint(folder / name) for name in written})
    if rank == 0:
        files = {name: value for part in every for name, value in part.items()}
        (folder / MANIFEST).write_text(json.dumps(files, indent=1))
