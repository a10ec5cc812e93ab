"""Streamed rollouts: one for each micro-batch; a checkpoint has one for each sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ray_distill.checkpoint import Checkpoint
from ray_distill.types import AtSave, Batch, Cache, Rollout, Window

ROLE = "rollouts"
"""Name of their files in a checkpoint, in place of a role's name."""


class Rollouts:
    """Rollouts of one rank, whose micro-batches hold the samples at ``positions`` [accumulation, micro_batch] of each
    global batch; there are none if ``streamed`` is None."""

    def __init__(self, streamed: AtSave | None, positions: np.ndarray, window: Window | None = None) -> None:
        self.streamed, self.positions, self.window = streamed, positions, window
        self._begin()

    def _begin(self) -> None:
        self._rollouts = [Rollout() for _ in self.positions] if self.streamed else []

    def join(self, batches: Sequence[Batch]) -> list[Batch]:
        """Micro-batches of a step, each with its rollout."""
        if not self._rollouts:
            return list(batches)
        return [replace(batch, rollout=rollout) for batch, rollout in zip(batches, self._rollouts, strict=True)]

    def saved(self) -> None:
        """Handle a save, failed or not: this run must continue like a run that resumes from it."""
        if self.streamed == "restarted":
            self._begin()

    def tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        """Yield (role, "position/name", tensor) of this rank's current rollouts for a checkpoint."""
        for positions, rollout in zip(self.positions, self._rollouts, strict=False):
            if rollout.x is None or self.streamed != "saved":
                continue
            for row, position in enumerate(positions.tolist()):
                for name, tensor in tensors_by_name(rollout).items():
                    yield ROLE, f"{position:06d}/{name}", tensor[row]

    def load(self, checkpoint: Checkpoint, device: torch.device) -> None:
        """Continue the rollouts of a checkpoint of any world size and micro-batch."""
        if self.streamed != "saved":
            return
        for number, positions in enumerate(self.positions):
            rows = [checkpoint.tensors(ROLE, f"{position:06d}") for position in positions.tolist()]
            if rows[0]:
                stacked = {name: torch.stack([row[name] for row in rows]).to(device) for name in rows[0]}
                self._rollouts[number] = rollout_of(stacked, self.window)


def tensors_by_name(rollout: Rollout) -> dict[str, Tensor]:
    """Tensors of a rollout by name, each with the samples first."""
    assert rollout.x is not None
    counts = torch.tensor([rollout.frames, rollout.cache.frames])
    tensors = {"x": rollout.x, "frames": counts.expand(len(rollout.x), 2)}
    tensors |= {f"cond/{name}": tensor for name, tensor in rollout.cond.items()}
    tensors |= {f"uncond/{name}": tensor for name, tensor in rollout.uncond.items()}
    for (first, end), layers in rollout.cache.chunks.items():
        for layer, (key, value) in enumerate(layers):
            tensors |= {f"key/{first}-{end}/{layer}": key, f"value/{first}-{end}/{layer}": value}
    return tensors


def rollout_of(tensors: Mapping[str, Tensor], window: Window | None) -> Rollout:
    """The inverse of :func:`tensors_by_name`. The chunks of the cache come in the order of their frames."""

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    keys, values = under("key/"), under("value/")
    runs = sorted({tuple(map(int, name.partition("/")[0].split("-"))) for name in keys})
    chunks = {}
    for first, end in runs:
        layers = sum(name.startswith(f"{first}-{end}/") for name in keys)
        of = [f"{first}-{end}/{layer}" for layer in range(layers)]
        chunks[first, end] = tuple((keys[name], values[name]) for name in of)
    frames, before = tensors["frames"][0].tolist()
    return Rollout(
        frames=frames,
        x=tensors["x"],
        cache=Cache(before, chunks, window),
        cond=under("cond/"),
        uncond=under("uncond/"),
    )
