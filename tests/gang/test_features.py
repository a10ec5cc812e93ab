"""Gradients through the hidden features of other roles, sharded or not, against plain torch on one rank."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ray_distill.methods import DMD
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.rng import StatelessRng
from ray_distill.types import (
    FAKE_SCORE,
    STUDENT,
    TEACHER,
    Batch,
    Denoiser,
    LossTerms,
    Networks,
    Rng,
    Role,
    Shared,
    Update,
)
from tests.gang import jobs
from tests.gang.gang import Gang

STEPS = 4


@dataclass(frozen=True)
class Perceptual(DMD):
    """The student's x_0 and the batch's are compared in features and velocities of the teacher and of the fake score,
    and the fake score learns from both of its own: gradients pass through roles that are not updated."""

    def updates(self, step: int) -> tuple[Update, ...]:
        return Update(STUDENT, self.compare), Update(FAKE_SCORE, self.shrink)

    def compare(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        assert batch.x_0 is not None
        x = self.roll_out(networks, batch, rng, "student", grad=True)
        losses = []
        for role in (TEACHER, FAKE_SCORE):
            with torch.no_grad():
                wanted = see(networks[role], batch.x_0, batch)
            losses += [(a - b).square().mean() for a, b in zip(see(networks[role], x, batch), wanted, strict=True)]
        return LossTerms(torch.stack(losses).mean())

    def shrink(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        assert batch.x_0 is not None
        return LossTerms(torch.stack([a.square().mean() for a in see(networks[FAKE_SCORE], batch.x_0, batch)]).mean())


def see(denoiser: Denoiser, x: Tensor, batch: Batch) -> tuple[Tensor, ...]:
    """The velocity at sigma = 0.5, and the output of both blocks."""
    prediction = denoiser(x, torch.full((len(x),), 0.5), batch.cond, features=(0, 1))
    return prediction.velocity, *prediction.features


METHOD = Perceptual(timesteps=(1000.0, 500.0))


def train(rank: int, world: int, case: jobs.Case) -> dict[str, Any]:
    result = jobs.run(rank, world, case, STEPS)
    return {name: t for name, t in result["tensors"].items() if "/weights/" in name} | {"frozen": result["frozen"]}


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    """The same descents by torch alone."""
    modules = {role: jobs.network(jobs.Case(), role) for role in METHOD.roles}
    modules[TEACHER].requires_grad_(False)
    networks = {role: WanDenoiser(module) for role, module in modules.items()}
    made = {role: torch.optim.AdamW(modules[role].parameters(), lr=jobs.LR) for role in (STUDENT, FAKE_SCORE)}
    for step in range(STEPS):
        (batch,) = jobs.micro_batches(jobs.Case(micro_batch=8), step, 0, 1)
        for update in METHOD.updates(step):
            role = update.role
            for module in modules.values():
                module.zero_grad()
            update.loss(networks, batch, StatelessRng(0, step), {}).loss.backward()
            torch.nn.utils.clip_grad_norm_(modules[role].parameters(), 1.0)
            made[role].step()
    return {f"{role}/weights/{name}": p.detach() for role in made for name, p in modules[role].named_parameters()}


@pytest.mark.parametrize(
    "case",
    [
        jobs.Case(zero=1, frozen_zero=0, micro_batch=4),
        jobs.Case(zero=3, frozen_zero=3, micro_batch=4, gradient_checkpointing=True),
        jobs.Case(zero=2, frozen_zero=3, micro_batch=2),
    ],
    ids=["1", "3-checkpointing", "2-accumulated"],
)
def test_gradients_through_features_equal_plain_torch(
    gang: Gang, reference: dict[Role, Tensor], case: jobs.Case
) -> None:
    results = gang.run(train, replace(case, method=METHOD, ema_decay=None), world=2)
    for result in results:
        before, after = result.pop("frozen")
        assert before == after
        assert result.keys() == reference.keys()
        assert max((result[name] - t).abs().max().item() for name, t in reference.items()) < 0.05 * jobs.LR
