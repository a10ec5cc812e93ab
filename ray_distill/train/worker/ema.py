"""A sharded exponential moving average: each rank averages the fp32 shards that it holds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class ShardedEMA:
    """The average e <- d e + (1 - d) p in fp32 over ``shards``, views of this rank's pieces of the fp32 master
    weights."""

    def __init__(self, shards: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.shards = dict(shards)
        self.average = {name: shard.detach().clone() for name, shard in shards.items()}

    @torch.no_grad()
    def update(self, most: float = 1.0) -> None:
        """Move the average, with a decay of at most ``most``."""
        if self.shards:
            weight = 1 - min(self.decay, most)
            torch._foreach_lerp_(list(self.average.values()), list(self.shards.values()), weight)
