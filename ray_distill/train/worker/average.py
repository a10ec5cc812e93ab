"""A role that is the average of another: fp32 shards, which the other's AdamW keeps, and a frozen network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from ray_distill.checkpoint import Checkpoint
from ray_distill.models.lora import plain
from ray_distill.train.worker import shards
from ray_distill.types import Role


class AverageRole:
    """``source`` are the trainable parameters, by plain name, of the averaged role ``of``, whose AdamW moves the
    average under the name ``role``; ``module`` is a frozen network of the same architecture, dtype and sharding, which
    gets the average."""

    def __init__(
        self, role: Role, of: Role, source: Sequence[tuple[str, nn.Parameter]], module: nn.Module, decay: float
    ) -> None:
        own = {plain(name): parameter for name, parameter in module.named_parameters()}
        self.of, self.role, self.parameters = of, role, [own[name] for name, _ in source]
        self._pairs = [(name, parameter, own[name]) for name, parameter in source]
        self.decay = decay

    def pieces(self) -> Iterator[shards.Piece[tuple[Role, str]]]:
        """This rank's pieces of the tensors that a checkpoint keeps."""
        for name, parameter, _ in self._pairs:
            yield (self.role, f"weights/{name}"), parameter, shards.local_shard(parameter, self.role)

    def load(self, checkpoint: Checkpoint) -> None:
        self._set(checkpoint, self.role)

    def begin(self, checkpoint: Checkpoint) -> None:
        """Start with the weights of the averaged role ``of``."""
        self._set(checkpoint, self.of)

    def _set(self, checkpoint: Checkpoint, role: Role) -> None:
        for name, parameter, _ in self._pairs:
            shards.set_master(parameter, checkpoint.tensor(role, "weights", name).to(parameter.device), self.role)
        self.follow()

    @torch.no_grad()
    def follow(self) -> None:
        """Set the network's weights to the average."""
        averages = ((own, parameter, shards.local_shard(parameter, self.role)) for _, parameter, own in self._pairs)
        shards.set_from_shards(averages)
