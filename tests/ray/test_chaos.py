"""A share of `make chaos` that ends soon: two faults from a seed, over the run of all these tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ray_distill.cli import main
from ray_distill.train import fit
from tests.chaos import compare, faults
from tests.chaos.driver import RawProgress
from tests.ray.conftest import STEPS, Home

KINDS = [("kill", phase) for phase in ("data", "forward", "backward", "step", "meet", "save", "settle")]
EVERY, BATCH = 20, 8
"""Steps from checkpoint to checkpoint, and the global batch, as ``SHORT`` has them."""


def test_workers_that_are_killed_cost_their_steps_and_nothing_else(
    straight: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 at two moments: what went before, what came again and what came after equals the undisturbed run."""
    drawn = faults.plan(KINDS, seed=0)[:2]
    planned = [replace(fault, step=EVERY * fault.number + fault.step) for fault in drawn]
    run = home.folder / "output/chaos"
    folder = faults.folder_of(run)
    folder.mkdir(parents=True)
    faults.write_plan(folder, planned)
    monkeypatch.setattr(RawProgress, "folder", folder, raising=False)
    monkeypatch.setattr(fit, "train_worker", faults.train_worker)
    monkeypatch.setattr(fit, "Progress", RawProgress)
    overrides = home.overrides("chaos", "train.max_failures=2", "track.uri=''")
    assert main(["train", "configs/quickstart.yaml", *overrides]) == 0
    rows = compare.held_against(run, straight, planned, EVERY)
    assert [(row.fault, row.held) for row in rows] == [("kill", "bit for bit")] * 2, compare.table(rows)
    assert len(compare.read(folder / faults.RAW)) > len(compare.read(run / "metrics.jsonl"))  # some steps came twice
    trained: dict[int, dict[int, list[int]]] = {}
    for row in compare.read(folder / faults.SAMPLES):
        assert trained.setdefault(row["step"], {}).setdefault(row["rank"], row["samples"]) == row["samples"]
    assert sorted(trained) == list(range(STEPS))
    for step, ranks in trained.items():
        assert sorted(ranks[0] + ranks[1]) == list(range(BATCH * step, BATCH * (step + 1)))
