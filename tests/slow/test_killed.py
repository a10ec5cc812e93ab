"""Workers that die, fail and hang cost their steps since the last checkpoint, and nothing else. All: ``make chaos``."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ray_distill.cli import main
from ray_distill.train.driver import fit
from tests.chaos import faults
from tests.chaos.faults import Fault
from tests.ray.conftest import ROOT, Home
from tests.ray.test_train import assert_equal_runs


def test_a_run_whose_workers_were_struck_ends_equal(
    straight: Path, home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 in a backward, an exception in a rollout, and a hang; after each Ray starts the workers anew."""
    run = home.folder / "output/struck"
    kinds = [("kill", "backward", 25), ("raise", "forward", 35), ("hang", "forward", 45)]
    planned = [Fault(i, kind, phase, step, rank=i % 2, delay=0.0) for i, (kind, phase, step) in enumerate(kinds)]
    folder = faults.folder_of(run)
    folder.mkdir(parents=True)
    faults.write_plan(folder, planned)
    monkeypatch.setattr(fit, "train_worker", faults.train_worker)
    patience = ["train.hang_timeout_s=20", "train.max_failures=3"]
    assert main(["train", "configs/quickstart.yaml", *home.overrides("struck", *patience)]) == 0
    assert all((folder / fault.note).exists() for fault in planned)
    said = capsys.readouterr().err
    assert said.count("resumed from step") == 3
    assert "rank 1 failed at step 35, forward of " in said and "RuntimeError: planted by chaos" in said
    assert "waiting for rank 0 (train.hang_timeout_s). rank 0: step 45, forward of " in said
    assert "(strike, faults.py:" in said
    assert_equal_runs(run, straight)


LONG = ["method.num_frame_per_block=1", "method.num_training_frames=3", "method.window=2", "method.rollout_frames=9"]


def test_a_streamed_rollout_goes_on_after_a_kill(
    local_ray: None, home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sequence has four windows, and two steps have three updates: the save after ten steps is within one."""
    streamed = ["method.name=self_forcing", *LONG, "method.rollout_overlap=1", "train.steps=20"]
    streamed += ["train.checkpoint_every=10", "train.hang_timeout_s=60", "roles.student.zero=3"]
    assert main(["train", "configs/quickstart.yaml", *home.overrides("streamed", *streamed)]) == 0
    run = home.folder / "output/streamed_struck"
    folder = faults.folder_of(run)
    folder.mkdir(parents=True)
    faults.write_plan(folder, [Fault(0, "kill", "backward", 15, rank=1, delay=0.0)])
    monkeypatch.setattr(fit, "train_worker", faults.train_worker)
    assert main(["train", "configs/quickstart.yaml", *home.overrides("streamed_struck", *streamed)]) == 0
    assert "resumed from step 10" in capsys.readouterr().err
    assert_equal_runs(run, home.folder / "output/streamed")


LATE = """
import os, signal, sys
from pathlib import Path
from ray_distill.cli import main
from ray_distill.train.driver import fit

drain, run, saved = fit._drain, Path(sys.argv[1]), sys.argv[2]

def late(*given):
    if (run / saved / "manifest.json").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return [] if fit.logged_to(run) >= 10 else drain(*given)

fit._drain = late
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.parametrize("saved", ["step_00000040", "step_00000060"])
def test_rows_outlive_a_driver_that_had_not_written_them(straight: Path, home: Home, saved: str) -> None:
    """It looks at no row after the first ten, and is killed once a checkpoint is whole, in the midst or at the end."""
    run = home.folder / "output" / f"late_{saved}"
    command = ["train", "configs/quickstart.yaml", *home.overrides(run.name)]
    driver = subprocess.run([sys.executable, "-c", LATE, str(run), saved, *command], cwd=ROOT)
    assert driver.returncode == -signal.SIGKILL and 10 <= fit.logged_to(run) < 20
    assert main(command) == 0
    assert_equal_runs(run, straight)
