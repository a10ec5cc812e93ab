"""The discriminator's role in sharded engines: worlds agree, a resumed run is exact, an update moves its own role."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from ray_distill.config import RunConfig
from ray_distill.methods import DMD, GAN
from ray_distill.rng import StatelessRng
from ray_distill.train.worker.build import build_engines
from ray_distill.train.worker.step import train_step
from ray_distill.types import Update
from tests.gang import jobs
from tests.gang.gang import Gang
from tests.gang.test_engines import TOLERANCE, assert_moved, distance
from tests.tiny_wan import tiny_wan
from tests.unit.toys import run_config

pytestmark = pytest.mark.slow

METHOD = GAN(student_interval=2, teacher_guidance=2.0, gan_weight=0.5, gan_r1_weight=0.1)
TRUNK = replace(METHOD, gan_features="fake_score", gan_trunk_weight=0.1, gan_loss="hinge", gan_r1_weight=0.0)
TURN = replace(METHOD, discriminator_turn="student", reuse_rollout=True)
STEPS = 4
CASES = [(METHOD, 1), (TRUNK, 2), (TRUNK, 3), (TURN, 2)]


@pytest.mark.parametrize(("method", "zero"), CASES, ids=["teacher-1", "own-2", "own-3", "turn-2"])
def test_two_ranks_agree_with_one(gang: Gang, method: GAN, zero: int) -> None:
    alone = gang.run(jobs.run, jobs.Case(method=method, micro_batch=8), STEPS, world=1)[0]
    case = jobs.Case(method=method, zero=zero, micro_batch=2 if zero == 1 else 4, gradient_checkpointing=zero == 3)
    results = gang.run(jobs.run, case, STEPS, world=2)
    assert distance(results[0], alone) < TOLERANCE and distance(results[0], results[1]) == 0.0
    assert_moved(results[0], jobs.initial(case))
    start, heads = jobs.initial(case), "discriminator/weights/"
    assert all((results[0]["tensors"][n] - t).abs().max() > 0 for n, t in start.items() if n.startswith(heads))
    assert results[0]["state"]["discriminator"] == {"updates": STEPS // (1 + (method is TURN)), "skipped": 0}
    assert results[0]["frozen"][0] == results[0]["frozen"][1]


@pytest.mark.parametrize(("method", "zero"), [(TRUNK, 3), (TURN, 1)], ids=["own", "turn"])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    gang: Gang, tmp_path: Path, method: GAN, zero: int
) -> None:
    case = jobs.Case(method=method, zero=zero, dtype="bfloat16", micro_batch=2)
    straight = gang.run(jobs.run, case, STEPS, None, None, 0, str(tmp_path / "c"), 2, world=2)[0]
    resumed = gang.run(jobs.run, case, STEPS, None, str(tmp_path / "c"), 2, world=2)[0]
    assert any(name.startswith("discriminator/exp_avg/") for name in straight["tensors"])
    assert straight["tensors"].keys() == resumed["tensors"].keys()
    assert {n for n, t in straight["tensors"].items() if not torch.equal(t, resumed["tensors"][n])} == set()
    assert straight["state"] == resumed["state"]


@dataclass(frozen=True)
class Only(GAN):
    """A method that updates one role alone."""

    role: str = "student"

    def updates(self, step: int) -> tuple[Update, ...]:
        return (Update(self.role, getattr(self, f"{self.role}_loss")),)


@pytest.mark.parametrize("features", ["teacher", "fake_score"])
def test_an_update_moves_its_own_role_alone(gang: Gang, features: str) -> None:
    for role in ("student", "fake_score", "discriminator"):
        case = jobs.Case(method=Only(gan_features=features, role=role), zero=3, micro_batch=8)  # type: ignore[arg-type]
        result = gang.run(jobs.run, case, 2, world=1)[0]
        start = jobs.initial(case)
        moved = {name.split("/")[0] for name, t in start.items() if not torch.equal(t, result["tensors"][name])}
        assert moved == {role} and result["frozen"][0] == result["frozen"][1]


def test_without_weight_student_and_fake_score_are_those_of_plain_dmd(gang: Gang) -> None:
    """Bit for bit, with a discriminator trained beside them under ZeRO-3."""
    plain, beside = (
        gang.run(jobs.run, jobs.Case(method=method, zero=3, micro_batch=8), STEPS, world=1)[0]["tensors"]
        for method in (DMD(student_interval=2), GAN(student_interval=2, gan_weight=0.0))
    )
    assert all(torch.equal(tensor, beside[name]) for name, tensor in plain.items())


def own_engines(rank: int, world: int, config: RunConfig) -> tuple[tuple[int, ...], dict, list[str]]:
    engines = build_engines(config)
    (batch,) = jobs.micro_batches(jobs.Case(micro_batch=8), 0, rank, world)
    train_step(config.method, engines, [batch], 0, StatelessRng(0))
    held = [name for role, name, _ in engines.tensors() if role == "discriminator"]
    return engines.networks["discriminator"].blocks, engines.state(), held  # type: ignore[attr-defined]


def test_a_worker_builds_the_heads_that_its_configuration_asks_for(gang: Gang, tmp_path: Path) -> None:
    tiny_wan(0).save_pretrained(tmp_path / "model/transformer")
    method = {"name": "dmd_gan", "student_interval": 1, "gan_depths": [0.5, 1.0]}
    trained = {"optimizer": {"learning_rate": 1e-4}}
    config = run_config(tmp_path, method=method, roles__discriminator=trained, train__micro_batch=4)
    blocks, state, held = gang.run(own_engines, config, world=1)[0]
    assert blocks == (0, 1)
    assert state == {role: {"updates": 1, "skipped": 0} for role in ("student", "fake_score", "discriminator")}
    assert {name.split(".")[1] for name in held} == {"0", "1"}
