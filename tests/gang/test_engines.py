"""Worlds, ZeRO stages, accumulation, skips and resume: the numerics of sharded roles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.gang import jobs
from tests.gang.gang import Gang

TOLERANCE = 0.05 * jobs.LR


def weights(result: dict) -> dict[str, torch.Tensor]:
    return {name: t for name, t in result["tensors"].items() if "/weights/" in name or "/ema/" in name}


def distance(a: dict, b: dict) -> float:
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    return max((left[name] - right[name]).abs().max().item() for name in left)


@pytest.fixture(scope="module")
def reference(gang: Gang) -> dict:
    """World 1, ZeRO-2, no accumulation: what every other way of holding the roles must equal."""
    return gang.run(jobs.run, jobs.Case(micro_batch=8), world=1)[0]


def test_parameters_moved_and_the_teacher_did_not(gang: Gang, reference: dict) -> None:
    start = gang.run(jobs.initial, jobs.Case(micro_batch=8), world=1)[0]
    for role in ("student", "fake_score"):
        moved = [(reference["tensors"][n] - t).abs().max() for n, t in start.items() if n.startswith(f"{role}/weights")]
        assert max(moved) > jobs.LR
    assert reference["frozen"][0] == reference["frozen"][1]
    assert reference["state"] == {"student": {"updates": 5, "skipped": 0}, "fake_score": {"updates": 10, "skipped": 0}}


@pytest.mark.parametrize(
    ("world", "case"),
    [
        (2, jobs.Case(zero=2, micro_batch=4)),
        (2, jobs.Case(zero=1, micro_batch=2)),
        (2, jobs.Case(zero=3, micro_batch=2)),
        (4, jobs.Case(zero=2, micro_batch=2)),
        (4, jobs.Case(zero=3, micro_batch=1)),
        (1, jobs.Case(zero=3, micro_batch=8, gradient_checkpointing=True)),
    ],
)
def test_worlds_stages_and_accumulation_agree(gang: Gang, reference: dict, world: int, case: jobs.Case) -> None:
    results = gang.run(jobs.run, case, world=world)
    assert distance(results[0], reference) < TOLERANCE
    for other in results[1:]:
        assert distance(results[0], other) == 0.0


@pytest.mark.parametrize("fault", [jobs.halve_rank_0, jobs.leave_out_the_reduction])
def test_a_planted_fault_is_seen(gang: Gang, reference: dict, fault) -> None:
    results = gang.run(jobs.run, jobs.Case(micro_batch=4), 10, fault, world=2)
    assert distance(results[0], reference) > TOLERANCE


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(gang: Gang, tmp_path: Path, zero: int) -> None:
    case = jobs.Case(zero=zero, micro_batch=4)
    straight = gang.run(jobs.run, case, 7, world=2)[0]
    gang.run(jobs.run, case, 4, None, None, 0, str(tmp_path / "c"), world=2)
    resumed = gang.run(jobs.run, case, 7, None, str(tmp_path / "c"), 4, world=2)[0]
    assert straight["tensors"].keys() == resumed["tensors"].keys()
    assert {n for n, t in straight["tensors"].items() if not torch.equal(t, resumed["tensors"][n])} == set()
    assert straight["state"] == resumed["state"]


def test_another_world_and_stage_resume_within_tolerance(gang: Gang, tmp_path: Path) -> None:
    case = jobs.Case(zero=2, micro_batch=4)
    straight = gang.run(jobs.run, case, 10, world=2)[0]
    gang.run(jobs.run, case, 5, None, None, 0, str(tmp_path / "c"), world=2)
    four = gang.run(jobs.run, jobs.Case(zero=3, micro_batch=1), 10, None, str(tmp_path / "c"), 5, world=4)[0]
    assert distance(straight, four) < TOLERANCE


def test_bf16_resumes_bit_for_bit_with_fp32_masters(gang: Gang, tmp_path: Path) -> None:
    case = jobs.Case(zero=2, dtype="bfloat16", micro_batch=4)
    straight = gang.run(jobs.run, case, 6, world=2)[0]
    gang.run(jobs.run, case, 3, None, None, 0, str(tmp_path / "c"), world=2)
    resumed = gang.run(jobs.run, case, 6, None, str(tmp_path / "c"), 3, world=2)[0]
    assert all(torch.equal(t, resumed["tensors"][n]) for n, t in straight["tensors"].items())
    masters = torch.cat([t.flatten() for n, t in straight["tensors"].items() if "student/weights/" in n])
    assert (masters != masters.bfloat16().float()).float().mean() > 0.5  # the masters are finer than bf16


@pytest.mark.parametrize("zero", [2, 3])
def test_one_bad_rank_makes_all_ranks_skip(gang: Gang, zero: int) -> None:
    case = jobs.Case(zero=zero, micro_batch=4)
    start = gang.run(jobs.initial, case, world=2)[0]
    results = gang.run(jobs.run, case, 2, jobs.poison_rank_1, world=2)
    for result in results:
        assert result["state"]["student"] == {"updates": 0, "skipped": 1}
        assert result["state"]["fake_score"] == {"updates": 0, "skipped": 2}
        assert all(torch.equal(result["tensors"][name], t) for name, t in start.items())


def test_a_role_that_is_not_updated_stays_bit_identical(gang: Gang) -> None:
    case = replace(jobs.Case(micro_batch=4), method=jobs.DMD(student_interval=100))
    start = gang.run(jobs.initial, case, world=2)[0]
    result = gang.run(jobs.run, case, 3, world=2)[0]
    for name, tensor in start.items():
        same = torch.equal(tensor, result["tensors"][name])
        assert same if name.startswith("student/") else True
    assert any(not torch.equal(t, result["tensors"][n]) for n, t in start.items() if n.startswith("fake_score/weights"))


def test_every_updated_role_has_a_gradient(reference: dict) -> None:
    assert reference["logs"]["student_grad_norm"] > 0
    assert reference["logs"]["fake_score_grad_norm"] > 0
