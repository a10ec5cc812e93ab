"""A run on Ray whose three workers share each clip: rows and checkpoints of one worker's run, resumed across both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ray_distill.checkpoint import Checkpoint, latest
from ray_distill.cli import main
from tests.ray.conftest import Home, read_rows

ALONE = ["train.workers=1", "train.sequence_parallel=1"]
SHARED = ["train.workers=3", "train.sequence_parallel=3"]  # the digits' teacher has 3 heads, its clips 27 tokens
CONSTANT = [f"roles.{role}.optimizer.schedule=constant" for role in ("student", "fake_score")]  # runs of two lengths
SHORT = ["train.checkpoint_every=6", "method.student_interval=1", *CONSTANT]


def trained(home: Home, name: str, steps: int, *more: str) -> Path:
    overrides = home.overrides(name, *SHORT, *more, f"train.steps={steps}")
    assert main(["train", "configs/quickstart.yaml", *overrides]) == 0
    return home.folder / "output" / name


def newest(run: Path) -> Checkpoint:
    last = latest(run)
    assert last is not None
    return last


def assert_same(one: Path, other: Path) -> None:
    """Rows, counts included, and first moments agree to what fp32 leaves."""
    left, right = read_rows(one), read_rows(other)
    assert [row["step"] for row in left] == [row["step"] for row in right]
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys() and "dmd_nonfinite_count" in a
        assert a == pytest.approx(b, rel=2e-3, abs=1e-5)
    a, b = newest(one), newest(other)
    assert (a.step, a.state["roles"]) == (b.step, b.state["roles"])
    for role in ("student", "fake_score"):
        wanted = b.tensors(role, "exp_avg")
        for name, moment in a.tensors(role, "exp_avg").items():
            torch.testing.assert_close(moment, wanted[name], rtol=0, atol=2e-3 * float(wanted[name].abs().max() + 1e-3))


def test_three_workers_that_share_clips_are_one_and_go_on_as_one(
    local_ray: None, home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home.folder)
    alone = trained(home, "alone", 12, *ALONE)
    shared = trained(home, "shared", 6, *SHARED)
    assert newest(shared).state["world"] == 3
    assert main(["train", "configs/quickstart.yaml", *home.overrides("shared", *SHORT, *ALONE, "train.steps=12")]) == 0
    assert "resumed from step 6" in capsys.readouterr().err
    assert_same(shared, alone)


def test_workers_that_cannot_share_are_refused_before_ray_starts(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home.folder)
    for shared, message in ((2, "attention heads in each layer"), (4, "is no multiple")):
        wrong = home.overrides("wrong", "train.workers=2", f"train.sequence_parallel={shared}")
        assert main(["train", "configs/quickstart.yaml", *wrong]) == 2
        assert message in capsys.readouterr().err
