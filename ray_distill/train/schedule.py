"""Learning rates as pure functions of the number of a role's updates."""

from __future__ import annotations

import math

from ray_distill.config import RunConfig
from ray_distill.config.schema import Optimizer
from ray_distill.types import Role


def learning_rate(optimizer: Optimizer, update: int, total: int) -> float:
    """The rate of update number ``update`` (from 0) of ``total``: linear warm-up, then the schedule down to 0."""
    if update < optimizer.warmup_updates:
        return optimizer.learning_rate * (update + 1) / optimizer.warmup_updates
    left = 1 - (update - optimizer.warmup_updates) / max(1, total - optimizer.warmup_updates)
    factor = {"constant": 1.0, "linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left))}[optimizer.schedule]
    return optimizer.learning_rate * factor


def total_updates(config: RunConfig) -> dict[Role, int]:
    """How often each role is updated in the whole run: the length of its learning-rate schedule."""
    counts: dict[Role, int] = {}
    for step in range(config.train.steps):
        for update in config.method.updates(step):
            for role in update.roles:
                counts[role] = counts.get(role, 0) + 1
    return counts
