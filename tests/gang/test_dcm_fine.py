"""DCM's detail expert in sharded engines: adapters, whole parts, discriminator, gradients through the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ray_distill.methods import DCMFine
from ray_distill.models.lora import LoRA
from ray_distill.types import Update
from tests.gang import jobs
from tests.gang.gang import Gang
from tests.gang.test_engines import TOLERANCE, distance

pytestmark = pytest.mark.slow

METHOD = DCMFine(shift=3.0, target_decay=0.9, discriminator_stride=1)
EXPERT = LoRA(rank=4, alpha=8, whole=("condition_embedder", "scale_shift_table", "proj_out"))
STEPS = 3


def case(**keys) -> jobs.Case:
    return jobs.Case(method=METHOD, lora=EXPERT, **keys)


def sure(result: dict) -> dict:
    """Without the heads' biases: at first pred is nearly aim, so their gradients cancel but for rounding, which AdamW
    turns into whole steps."""
    noise = {name for name in result["tensors"] if name.startswith("discriminator/") and name.endswith(".bias")}
    return {"tensors": {name: t for name, t in result["tensors"].items() if name not in noise}}


@pytest.mark.parametrize("zero", [2, 3])
def test_two_ranks_agree_with_one(gang: Gang, zero: int) -> None:
    alone = gang.run(jobs.run, case(micro_batch=8), STEPS, world=1)[0]
    results = gang.run(jobs.run, case(zero=zero, micro_batch=2, gradient_checkpointing=zero == 3), STEPS, world=2)
    assert distance(sure(results[0]), sure(alone)) < TOLERANCE and distance(results[0], results[1]) == 0.0
    start = jobs.initial(case())
    assert {name.split("/")[0] for name in start} == {"student", "discriminator"}
    still = {n for n, t in start.items() if torch.equal(t, results[0]["tensors"][n]) and not n.endswith("bias")}
    assert still == set()  # adapters, whole parts, heads, averages
    assert results[0]["frozen"][0] == results[0]["frozen"][1]  # teacher and base


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(gang: Gang, tmp_path: Path) -> None:
    held = case(zero=3, dtype="bfloat16", micro_batch=4)
    straight = gang.run(jobs.run, held, STEPS, None, None, 0, str(tmp_path / "c"), 2, world=2)[0]
    resumed = gang.run(jobs.run, held, STEPS, None, str(tmp_path / "c"), 2, world=2)[0]
    names = {"student/weights/proj_out.weight", "student_ema/weights/proj_out.weight"}
    assert names < straight["tensors"].keys() == resumed["tensors"].keys()
    assert {n for n, t in straight["tensors"].items() if not torch.equal(t, resumed["tensors"][n])} == set()


@dataclass(frozen=True)
class Only(DCMFine):
    """A method that updates one role alone."""

    role: str = "student"

    def updates(self, step: int) -> tuple[Update, ...]:
        return tuple(update for update in super().updates(step) if update.role == self.role)


@pytest.mark.parametrize("role", ["student", "discriminator"])
def test_an_update_leaves_the_other_bit_identical(gang: Gang, role: str) -> None:
    alone = jobs.Case(method=Only(shift=3.0, role=role), zero=3, micro_batch=8, lora=EXPERT)
    result = gang.run(jobs.run, alone, 2, world=1)[0]
    start = jobs.initial(alone)
    assert {name.split("/")[0] for name, t in start.items() if not torch.equal(t, result["tensors"][name])} == {role}
    assert result["frozen"][0] == result["frozen"][1]
