"""A fake score that follows the student's weights (method.ida_decay), under every ZeRO stage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ray_distill.methods import DMD
from ray_distill.train.worker.engines import DeepSpeedEngines
from tests.gang import jobs
from tests.gang.gang import Gang
from tests.gang.test_engines import TOLERANCE, distance

pytestmark = pytest.mark.slow

METHOD = DMD(student_interval=2, student_turn="replaces", teacher_guidance=2.0, ida_decay=0.9)


@pytest.mark.parametrize(("zero", "dtype"), [(1, "float32"), (2, "bfloat16"), (3, "float32"), (3, "bfloat16")])
def test_it_is_nine_tenths_itself_and_one_the_student(gang: Gang, zero: int, dtype: str) -> None:
    """Step 0 moves the fake score, step 1 the student alone: what the fake score is after it is known exactly."""
    case = jobs.Case(method=METHOD, zero=zero, dtype=dtype, micro_batch=4)
    before, after = (gang.run(jobs.run, case, steps, world=2)[0]["tensors"] for steps in (1, 2))
    names = [name.removeprefix("student/weights/") for name in after if name.startswith("student/weights/")]
    assert any(not torch.equal(before[f"student/weights/{n}"], after[f"student/weights/{n}"]) for n in names)
    for name in names:
        wanted = 0.9 * before[f"fake_score/weights/{name}"] + 0.1 * after[f"student/weights/{name}"]
        torch.testing.assert_close(after[f"fake_score/weights/{name}"], wanted, rtol=0, atol=1e-6)
        moment = f"fake_score/exp_avg/{name}"
        assert torch.equal(after[moment], before[moment])


@pytest.mark.parametrize("zero", [2, 3])
def test_worlds_agree_and_a_resumed_run_is_exact(gang: Gang, tmp_path: Path, zero: int) -> None:
    """The weights that forwards use follow, too: a checkpoint between the pull and the fake score's next update has
    the masters alone, and goes on alike."""
    alone = gang.run(jobs.run, jobs.Case(method=METHOD, micro_batch=8), 4, world=1)[0]
    case = jobs.Case(method=METHOD, zero=zero, micro_batch=4)
    straight = gang.run(jobs.run, case, 4, None, None, 0, str(tmp_path / "c"), 2, world=2)[0]
    resumed = gang.run(jobs.run, case, 4, None, str(tmp_path / "c"), 2, world=2)[0]
    assert distance(straight, alone) < TOLERANCE
    assert {n for n, t in straight["tensors"].items() if not torch.equal(t, resumed["tensors"][n])} == set()


def poison_the_student(held: DeepSpeedEngines, rank: int) -> None:
    backward = held.backward

    def bad(role: str, loss: torch.Tensor, last: bool) -> None:
        backward(role, loss * float("nan") if role == "student" else loss, last)

    held.backward = bad  # type: ignore[method-assign]


def test_a_student_that_was_skipped_is_not_followed(gang: Gang) -> None:
    case = jobs.Case(method=METHOD, micro_batch=8)
    before = gang.run(jobs.run, case, 1, world=1)[0]["tensors"]
    result = gang.run(jobs.run, case, 2, poison_the_student, world=1)[0]
    assert result["state"]["student"] == {"updates": 0, "skipped": 1}
    assert all(torch.equal(result["tensors"][name], t) for name, t in before.items())
