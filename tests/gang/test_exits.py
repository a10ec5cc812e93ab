"""A fake score that knows the exit, weighted exits, projection and anchor in sharded engines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ray_distill.config import RunConfig
from ray_distill.methods import DMD
from ray_distill.models.lora import LoRA
from ray_distill.rng import StatelessRng
from ray_distill.train.worker.build import build_engines
from ray_distill.train.worker.step import train_step
from tests.gang import jobs
from tests.gang.gang import Gang
from tests.gang.test_engines import TOLERANCE, assert_moved, distance
from tests.tiny_wan import tiny_wan
from tests.unit.toys import run_config

METHOD = DMD(
    student_interval=2,
    teacher_guidance=2.0,
    ts_schedule=True,
    student_exits=(0, 1, 2),
    fake_score_exits=(1, 1, 3),
    exit_embedding=True,
    projection=True,
    diversity_weight=0.05,
    diversity_steps=4,
    rollout="ode",
    consistency_weight=0.25,
)
EMBEDDING = "fake_score/weights/exit_embedding.weight"


def assert_exact(gang: Gang, case: jobs.Case, folder: Path, steps: int = 4) -> None:
    """Two ranks agree with one, and a run that was resumed half-way with one that was not, bit for bit."""
    alone = gang.run(jobs.run, replace(case, micro_batch=8), steps, world=1)[0]
    straight = gang.run(jobs.run, case, steps, None, None, 0, str(folder / "c"), 2, world=2)[0]
    resumed = gang.run(jobs.run, case, steps, None, str(folder / "c"), 2, world=2)[0]
    assert distance(straight, alone) < TOLERANCE
    assert {n for n, t in straight["tensors"].items() if not torch.equal(t, resumed["tensors"][n])} == set()
    assert straight["tensors"][EMBEDDING].abs().max() > 0 and straight["frozen"][0] == straight["frozen"][1]
    assert not any("exit_embedding" in name for name in straight["tensors"] if name.startswith("student/"))
    assert_moved(straight, jobs.initial(case))


def test_worlds_agree_and_a_resumed_run_is_exact(gang: Gang, tmp_path: Path) -> None:
    assert_exact(gang, jobs.Case(method=METHOD, micro_batch=4), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [{"zero": 3, "gradient_checkpointing": True}, {"zero": 1}, {"zero": 3, "lora": LoRA(rank=2)}],
    ids=["zero3", "zero1", "lora"],
)
def test_of_every_stage(gang: Gang, tmp_path: Path, fields: dict) -> None:
    assert_exact(gang, jobs.Case(method=METHOD, micro_batch=4, **fields), tmp_path)


def own_engines(rank: int, world: int, config: RunConfig) -> list[str]:
    engines = build_engines(config)
    (batch,) = jobs.micro_batches(jobs.Case(micro_batch=8), 0, rank, world)
    train_step(config.method, engines, [batch], 0, StatelessRng(0))
    return [f"{role}/{name}" for role, name, _ in engines.tensors() if "exit" in name]


@pytest.mark.slow
def test_a_worker_puts_the_embedding_on_the_fake_score_alone(gang: Gang, tmp_path: Path) -> None:
    tiny_wan(0).save_pretrained(tmp_path / "model/transformer")
    config = run_config(tmp_path, method={"name": "dmd", "exit_embedding": True}, train__micro_batch=4)
    assert gang.run(own_engines, config, world=1)[0] == [
        EMBEDDING.replace("weights", kind) for kind in ("weights", "exp_avg", "exp_avg_sq")
    ]
