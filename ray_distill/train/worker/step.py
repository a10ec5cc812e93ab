"""One training step, the same for all methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ray_distill.rng import StatelessRng
from ray_distill.train.worker.engines import Engines
from ray_distill.types import Batch, Method, Shared

At = Callable[..., Any]
"""Function that takes each phase of a step, and its role."""


def unseen(*_: Any) -> None:
    """Ignore the phase."""


def train_step(
    method: Method,
    engines: Engines,
    micro_batches: Sequence[Batch],
    step: int,
    rng: StatelessRng,
    at: At = unseen,
) -> dict[str, Tensor]:
    """Make the updates of ``step`` in order; returns their logs by name, [n] values of this rank's micro-batches."""
    logs: dict[str, list[Tensor]] = {}
    shared: list[Shared] = [{} for _ in micro_batches]
    for update in method.updates(step):
        with engines.training(update.role):
            for i, (batch, memory) in enumerate(zip(micro_batches, shared, strict=True), 1):
                at("forward", update.role)
                terms = update.loss(engines.networks, batch, rng.at(step), memory)
                at("backward", update.role)
                engines.backward(update.role, terms.loss / len(micro_batches), last=i == len(micro_batches))
                for name, value in terms.logs.items():
                    logs.setdefault(name, []).append(value.reshape(-1))
            at("step", update.role)
            logs |= {name: [value.reshape(-1)] for name, value in engines.step(update.role).items()}
        for pull in update.pulls:
            engines.pull(pull.role, pull.towards, pull.decay)
    return {name: torch.cat(values) for name, values in logs.items()}
