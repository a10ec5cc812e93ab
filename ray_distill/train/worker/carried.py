"""Roles of an earlier stage, which stay fixed and go from each checkpoint into the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ray_distill.checkpoint import Checkpoint
from ray_distill.models.lora import plain
from ray_distill.train.worker import shards
from ray_distill.types import Role


class Carried:
    """Tensors of the ``finished`` roles. ``finished`` maps each role to the kind that sampling uses, weights or ema;
    ``checkpoint`` is the newest that holds them: first the one at the start of the stage, then the last one saved."""

    def __init__(self, finished: Mapping[Role, str]) -> None:
        self.finished = finished
        self.checkpoint: Checkpoint | None = None

    def _kind(self, role: Role) -> str:
        """The kind to read: ``weights`` if the run had no average until now."""
        assert self.checkpoint is not None
        return self.finished[role] if self.checkpoint.names(role, self.finished[role]) else "weights"

    @torch.no_grad()
    def put(self, role: Role, module: nn.Module) -> None:
        """Give the frozen ``module`` of a role the weights that sampling uses (a collective)."""
        assert self.checkpoint is not None
        own, kind = {plain(name): parameter for name, parameter in module.named_parameters()}, self._kind(role)
        for name in self.checkpoint.names(role, "weights"):
            shards.set_compute_weights(own[name], self.checkpoint.tensor(role, kind, name).to(own[name].device))

    def tensors(self) -> Iterator[tuple[Role, str, Tensor]]:
        """Tensors of finished roles for a checkpoint, in the same order on all ranks. A whole one is mapped from its
        file; one in pieces is put together on every rank."""
        for role, sampled_kind in self.finished.items() if self.checkpoint else ():
            assert self.checkpoint is not None
            for kind, source in {"weights": "weights", sampled_kind: self._kind(role)}.items():
                for name in self.checkpoint.names(role, "weights"):
                    yield role, f"{kind}/{name}", self.checkpoint.tensor(role, source, name)

    def state(self) -> dict[str, Any]:
        """Counters of the finished roles."""
        return {} if self.checkpoint is None else {r: self.checkpoint.state["roles"][r] for r in self.finished}
