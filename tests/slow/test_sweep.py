"""Sweeps of several trials: one is stopped at its rung; a sweep that is killed goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import ray

from tests.ray.conftest import Home, wait_for
from tests.ray.test_tune import children, run_sweep, write_sweep


def test_a_killed_sweep_goes_on(home: Home, tmp_path: Path) -> None:
    config = write_sweep(
        tmp_path, home.overrides("killed_sweep"), name="killed_sweep", trials=4, seed=0
    )  # the base, then three bad ones
    out = home.folder / "output/killed_sweep"
    command = [sys.executable, "-c", "import sys; from ray_distill.cli import main; sys.exit(main())", "tune", config]

    first = subprocess.Popen(command, cwd=home.folder, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: len(list(out.glob("runs/*/validations.jsonl"))) > 0, "the first rung", 300)
    assert len(list(out.glob("runs/*"))) == 2, "concurrent: 2"
    # Ray's agents outlive their raylet by minutes, and do nothing.
    descended = psutil.Process(first.pid).children(recursive=True)
    working = [p for p in descended if "Agent" not in " ".join(p.cmdline())]
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    wait_for(lambda: not any(p.is_running() and p.status() != "zombie" for p in working), "Ray's processes", 120)

    again = subprocess.run(command, cwd=home.folder, stderr=subprocess.PIPE, text=True, timeout=900, check=False)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "killed_sweep goes on where it was" in again.stderr
    trials = json.loads((out / "trials.json").read_text())
    statuses = [trial["status"] for trial in trials]
    assert len(trials) == 4 and "failed" not in statuses
    assert "pruned" in statuses, "ASHA forgot the base, beside which the others are bad"
    for trial in trials:
        steps = [row["step"] for row in trial["rows"]]
        assert steps == sorted(set(steps)), "a rung was measured twice"
    status, nested = children(home.uri, "killed_sweep")
    assert status == "FINISHED"
    assert nested == {trial["name"]: "FINISHED" if trial["status"] == "done" else "KILLED" for trial in trials}


def command(process: psutil.Process) -> str:
    """Empty of one that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_a_sweep_finds_the_rate_that_does_not_ruin_the_student(
    local_ray: None, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = ray.available_resources()["CPU"]
    best, other = run_sweep(home, tmp_path, "two_rates", 2, capsys).trials
    assert other["status"] in ("pruned", "done") and other["rows"][0]["step"] == 4
    assert other["rows"][-1]["frechet"] > best["rows"][-1]["frechet"]
    # A trial that was stopped gave back its CPUs.
    wait_for(lambda: ray.available_resources().get("CPU") == before, "the trials' CPUs")
    assert not [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in command(p)]
