"""A worker that dies costs its steps since the last checkpoint, and nothing else."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil
import pytest

from ray_distill.cli import main
from tests.ray.conftest import STEPS, Home
from tests.ray.test_train import assert_equal_runs


def test_a_run_whose_worker_was_killed_ends_equal(
    straight: Path,
    home: Home,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """kill -9 in the middle; Ray starts the workers anew and they go on from the last checkpoint."""
    run = home.folder / "output/killed"
    killer = Killer(run, after=STEPS // 2)
    assert main(["train", "configs/quickstart.yaml", *home.overrides("killed")]) == 0
    assert killer.killed() and "resumed from step" in capsys.readouterr().err
    assert_equal_runs(run, straight)


class Killer(threading.Thread):
    """kill -9 of a training worker, once the run has logged more than ``after`` steps."""

    def __init__(self, run: Path, after: int) -> None:
        super().__init__(daemon=True)
        self.run_dir, self.after, self.pid = run, after, 0
        self.start()

    def run(self) -> None:
        while not self.pid:
            time.sleep(0.05)
            rows = self.run_dir / "metrics.jsonl"
            if rows.is_file() and rows.read_text().count("\n") > self.after:
                ours = psutil.Process().children(recursive=True)
                workers = [p for p in ours if "RayTrainWorker" in " ".join(p.cmdline())]
                workers[0].kill()
                self.pid = workers[0].pid

    def killed(self) -> bool:
        self.join(timeout=5)
        return bool(self.pid)
