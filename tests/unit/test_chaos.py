"""`make chaos` can fail: what it compares with sees a difference."""

import json
from pathlib import Path

import pytest
import torch

from tests.chaos import compare, faults
from tests.chaos.chaos import KINDS
from tests.checkpoints import write

ROWS = [{"step": step, "loss": step / 3} for step in range(4)]


def test_a_plan_follows_from_its_seed():
    planned = faults.plan(KINDS, 3)
    assert planned == faults.plan(KINDS, 3) != faults.plan(KINDS, 4)
    assert len(planned) >= 20 and sorted((f.kind, f.phase) for f in planned) == sorted(KINDS)
    assert all(0 < b.step - a.step < 2 * faults.SPACING for a, b in zip(planned, planned[1:], strict=False))


@pytest.mark.parametrize(
    ("kept", "raw", "said"),
    [
        (ROWS, ROWS + ROWS[1:3], []),
        (ROWS[:2] + ROWS[3:], ROWS, ["the series of the two runs differ: steps [2] are missing, [] double"]),
        ([*ROWS, ROWS[3]], ROWS, ["the series of the two runs differ: steps [] are missing, [3] double"]),
        (ROWS, [*ROWS, {"step": 2, "loss": 0.5}], ["a row of step 2 came with another value"]),
    ],
    ids=["equal", "missing", "doubled", "dropped and not equal"],
)
def test_rows_are_held_against_rows(tmp_path, kept, raw, said):
    run, straight = tmp_path / "run", tmp_path / "straight"
    for path, rows in (
        (straight / "metrics.jsonl", ROWS),
        (run / "metrics.jsonl", kept),
        (faults.folder_of(run) / faults.RAW, raw),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert compare.differing_rows(run, straight) == said


def test_one_bit_or_one_count_makes_two_checkpoints_differ(tmp_path):
    def stored(name: str, value: torch.Tensor, updates: int = 3) -> Path:
        state = {"step": 4, "roles": {"student": {"updates": updates}}}
        write(tmp_path / name, [("student", "exp_avg/w", value)], state, 0, 1, lambda part: [part])
        return tmp_path / name

    one = torch.ones(3)
    first = stored("a", one)
    assert compare.same(first, stored("b", one))
    assert not compare.same(first, stored("c", torch.nextafter(one, 2 * one)))
    assert not compare.same(first, stored("d", one, updates=4))
