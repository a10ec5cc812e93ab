"""Learning rates as pure functions of the number of a role's updates."""

from __future__ import annotations

import math

from ray_distill.config.schema import Optimizer


def learning_rate(optimizer: Optimizer, update: int, total: int) -> float:
    """The rate of update number ``update`` (from 0) of ``total``: linear warm-up, then the schedule down to 0."""
    if update < optimizer.warmup_updates:
        return optimizer.learning_rate * (update + 1) / optimizer.warmup_updates
    left = 1 - (update - optimizer.warmup_updates) / max(1, total - optimizer.warmup_updates)
    factor = {"constant": 1.0, "linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left))}[optimizer.schedule]
    return optimizer.learning_rate * factor
