"""SIGTERM to a whole process group, as `timeout` sends it: the run saves, ends as a signal ends it, and goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
from mlflow import MlflowClient

from ray_distill.checkpoint import latest
from tests.ray.conftest import ROOT, Home, read_rows, wait_for


def test_a_signal_to_the_whole_group_leaves_as_one_to_the_driver(home: Home, tmp_path: Path) -> None:
    arguments = home.overrides("group", "train.steps=100000", "train.checkpoint_every=100000", "train.workers=1")
    command = [sys.executable, "train.py", "configs/quickstart.yaml", *arguments]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    run = home.folder / "output/group"
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: driver.poll() is not None or (run / "metrics.jsonl").is_file(), "the first rows", 900)
        below = psutil.Process(driver.pid).children(recursive=True)
        ours = [process.pid for process in below if os.getpgid(process.pid) == driver.pid]
        assert len(below) > 3 and ours == []
        os.killpg(driver.pid, signal.SIGTERM)
        assert driver.wait(300) == 128 + signal.SIGTERM, (tmp_path / "log").read_text()[-3000:]
    finally:
        if driver.poll() is None:
            driver.kill()
            driver.wait()
    said = (tmp_path / "log").read_text()
    last = latest(run, thorough=True)
    assert last is not None and last.step == read_rows(run)[-1]["step"] + 1
    assert f"stopped at step {last.step}, which is saved" in said and "Traceback" not in said
    assert MlflowClient(home.uri).get_run(last.state["run_id"]).info.status == "KILLED"
    wait_for(lambda: not any(process.is_running() for process in below), "Ray's end", 60)
