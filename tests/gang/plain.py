"""Train with torch alone on one process: the reference that every sharded way must equal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ray_distill.models.wan.network import WanDenoiser
from ray_distill.rng import StatelessRng
from ray_distill.train.worker.step import train_step
from tests.gang import jobs


class Plain:
    """Engines of one network, one AdamW and one average a role: no sharding, no engine, ZeRO 0."""

    rate_factor = 1.0

    def __init__(self, case: jobs.Case) -> None:
        self.decay, self.clip_norm = case.ema_decay, case.clip_norm
        self.modules: dict[str, nn.Module] = {role: jobs.network(case, role) for role in case.method.roles}
        self.networks = {role: WanDenoiser(module) for role, module in self.modules.items()}
        self.trained = {
            role: {n: p for n, p in self.modules[role].named_parameters() if p.requires_grad}
            for role, need in case.method.roles.items()
            if need == "trained"
        }
        self.modules["teacher"].requires_grad_(False)
        self.optimizers = {
            role: torch.optim.AdamW(own.values(), jobs.LR, weight_decay=0.01) for role, own in self.trained.items()
        }
        self.average = {name: p.detach().clone() for name, p in self.trained["student"].items()}

    @contextmanager
    def training(self, role: str) -> Iterator[None]:
        for other, own in self.trained.items():
            for parameter in own.values():
                parameter.requires_grad_(other == role)
        yield

    def backward(self, role: str, loss: Tensor, last: bool) -> None:
        loss.backward()

    @torch.no_grad()
    def step(self, role: str) -> dict[str, Tensor]:
        norm = nn.utils.clip_grad_norm_(self.trained[role].values(), self.clip_norm)
        self.optimizers[role].step()
        self.optimizers[role].zero_grad()
        if role == "student":
            for name, parameter in self.trained[role].items():
                self.average[name].lerp_(parameter, 1 - self.decay)
        return {f"{role}_grad_norm": norm}


def run(rank: int, world: int, case: jobs.Case, steps: int) -> dict[str, Any]:
    """Train as ``jobs.run`` does, with the same names in the result."""
    held, logs = Plain(case), {}
    for step in range(steps):
        logs = train_step(case.method, held, jobs.micro_batches(case, step, rank, world), step, StatelessRng(0))  # type: ignore[arg-type]
    tensors = {f"{role}/weights/{n}": p.detach() for role, own in held.trained.items() for n, p in own.items()}
    tensors |= {f"student/ema/{name}": t for name, t in held.average.items()}
    return {"tensors": tensors, "logs": {name: float(value.mean()) for name, value in logs.items()}}
