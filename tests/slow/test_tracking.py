"""A real MLflow server that is killed and started again: what a run told meanwhile arrives, each thing once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from mlflow import MlflowClient

from ray_distill.track import tracker as module
from ray_distill.track.sync import sync
from ray_distill.track.tracker import Tracker
from tests.ray.conftest import free_port, wait_for


@contextmanager
def server(folder: Path, port: int) -> Iterator[str]:
    """``mlflow server`` for a while, killed at the end."""
    uri = f"http://127.0.0.1:{port}"
    store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen([*command, *store], stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: answers(uri), "MLflow's server", 180)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(uri: str) -> bool:
    with suppress(OSError), urlopen(f"{uri}/health", timeout=5) as told:
        return bool(told.status == 200)
    return False


def test_an_outage_in_the_middle_and_one_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COOL_DOWN_S", 1.0)
    run, port = tmp_path / "run", free_port()
    run.mkdir()
    (run / "report.json").write_text("{}")
    with server(tmp_path, port) as uri:
        tracker = Tracker.start(uri, "digits", "run", {"lr": 1}, {}, folder=run)
        tracker.metrics(0, {"loss": 1.0})
        wait_for(lambda: not tracker.left, "the first row")
    began = time.monotonic()
    for step in range(1, 50):
        tracker.metrics(step, {"loss": 1.0})
    assert time.monotonic() - began < 1
    with server(tmp_path, port):

        def sent() -> bool:
            if tracker.left:
                tracker.tags({"back": "yes"})  # as a run's next row would, which is what makes it try again
                return False
            return True

        wait_for(sent, "what was missed", 90)
        points = MlflowClient(uri).get_metric_history(tracker.run_id, "loss")
        assert sorted(point.step for point in points) == list(range(50))
    began = time.monotonic()
    tracker.metrics(50, {"loss": 0.5})
    tracker.artifact(run / "report.json")
    tracker.end("FINISHED")
    assert time.monotonic() - began < module.END_WAIT_S + 30 and tracker.left == 3
    with server(tmp_path, port):
        assert sync(run) == (3, 0)
        assert sync(run) == (0, 0)
        client = MlflowClient(uri)
        points = client.get_metric_history(tracker.run_id, "loss")
        assert sorted(point.step for point in points) == list(range(51))
        assert client.get_run(tracker.run_id).info.status == "FINISHED"
        assert [item.path for item in client.list_artifacts(tracker.run_id)] == ["report.json"]
