"""One Ray for all tests here, and a small data set and configuration that they share."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

ROOT = Path(__file__).parents[2]
SHORT = [
    "train.steps=30",
    "train.checkpoint_every=10",
    "train.global_batch=8",
    "train.micro_batch=4",
    "method.student_interval=2",
    "train.cpus_per_worker=0.5",
    "train.log_every_s=0.2",
    "evaluate.enabled=false",
]


TOKEN = os.environ["RAY_AUTH_TOKEN"]


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A head as a cluster has it: a token is asked for, jobs can be submitted and have time to save when stopped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_JOB_STOP_WAIT_TIME_S", "120")
        # A job's `python` is this one, whether or not its environment is activated.
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        context = ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            dashboard_port=free_port(),
            logging_level="ERROR",
            logging_config=ray.LoggingConfig(log_level="ERROR"),
        )
        patch.setenv("TEST_DASHBOARD", f"http://{context.dashboard_url}")
        yield
        ray.shutdown()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 60 moving digits, made by the quick start's own script."""
    import subprocess

    folder = tmp_path_factory.mktemp("digits")
    subprocess.run([sys.executable, ROOT / "examples/moving_digits.py", folder, "--count", "60"], check=True)
    return folder / "manifest.jsonl"


@pytest.fixture(scope="session")
def overrides(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """Overrides that shorten the quick start and keep all it writes in one folder."""
    home = tmp_path_factory.mktemp("runs")

    def make(name: str, *more: str) -> list[str]:
        return [
            f"name={name}",
            f"output_dir={home}",
            f"data.manifest={digits}",
            f"data.cache_dir={home / 'cache'}",
            f"track.uri=sqlite:///{home / 'mlflow.db'}",
            f"model.path={ROOT / 'examples/digits_teacher'}",
            f"evaluate.metric={ROOT / 'examples/digits_teacher/metric'}",
            *SHORT,
            *more,
        ]

    return make


def wait_for(holds: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait until ``holds``; AssertionError names what did not come."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)


def read_rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
