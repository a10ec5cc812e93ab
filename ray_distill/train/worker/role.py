"""One role of a training: its network, its DeepSpeed engine, and its counters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ray_distill.config.roles import RoleConfig
from ray_distill.train.schedule import warm_decay
from ray_distill.train.worker.average import AverageRole
from ray_distill.types import Role

NO_GRADIENT_LIMIT = 10  # in a row; fewer are legitimate for a DMD student whose fake score still equals the teacher
EMA = "ema"


@dataclass
class EngineRole:
    """One role: its network, its DeepSpeed engine (the network itself if it is frozen below stage 3), its counters and
    averages."""

    module: nn.Module
    engine: Any
    config: RoleConfig
    total_updates: int
    updates: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    without_gradient: int = 0
    trainable: list[tuple[str, nn.Parameter]] = field(default_factory=list)
    averages: list[AverageRole] = field(default_factory=list)
    descends: bool = False

    @property
    def averaged(self) -> bool:
        """True if the role has a published average, which AdamW keeps as ``EMA``."""
        return bool(self.trainable) and self.config.ema_decay is not None

    def shares(self) -> dict[str, float]:
        """Share (1 - decay) of the new weights that each average takes in the next update."""
        shares, number = {average.role: 1 - average.decay for average in self.averages}, self.updates + 1
        if self.config.ema_decay is not None and number % self.config.ema_interval == 0:
            shares[EMA] = 1 - min(self.config.ema_decay, warm_decay(number) if self.config.ema_warmup else 1.0)
        return shares

    @property
    def body(self) -> nn.Module:
        """The network to call: the module itself, or the base under the adapter."""
        body: nn.Module = getattr(self.module, "body", self.module)
        return body

    @property
    def zero_optimizer(self) -> Any:
        return self.engine.optimizer

    @property
    def optimizer(self) -> torch.optim.AdamW:
        inner: torch.optim.AdamW = self.engine.optimizer.optimizer
        return inner


class RoleNetwork:
    """A role's network for its adapter. It calls the engine if the role is updated, else the bare module, whose hooks
    also gather its weights: DeepSpeed mistakes a gradient that only passes through an engine's output for a backward of
    that engine, and refuses it."""

    def __init__(self, role: EngineRole) -> None:
        self._role = role

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (self._role.engine if self._role.descends else self._role.module)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._role.body, name)  # parts that adapters hook


def check_gradient(name: Role, role: EngineRole, norm: float) -> None:
    """RuntimeError, on all ranks since they share the norm, if no gradient has reached a role's parameters for long."""
    role.without_gradient = role.without_gradient + 1 if norm == 0 else 0
    if role.without_gradient == NO_GRADIENT_LIMIT:
        raise RuntimeError(
            f"the gradient of {name} was exactly 0 in {NO_GRADIENT_LIMIT} updates in a row: its loss does not reach "
            f"its {len(role.trainable)} trainable tensors ({role.trainable[0][0]}, ...)"
        )
