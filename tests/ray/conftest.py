"""One Ray for all tests here, and a small data set and configuration that they share."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray

from ray_distill.cli import main

ROOT = Path(__file__).parents[2]
STEPS = 60
SHORT = [
    f"train.steps={STEPS}",
    "train.checkpoint_every=20",
    "train.global_batch=8",
    "train.micro_batch=4",
    "method.student_interval=2",
    "train.cpus_per_worker=0.5",
    "train.log_every_s=0.2",
    "evaluate.enabled=false",
]
MEASURED = [
    "evaluate.enabled=true",
    f"evaluate.every={STEPS // 2}",
    "evaluate.videos=40",
    "evaluate.seeds=[1]",
    "evaluate.guidance_grid=[2.0]",
    "evaluate.shift_grid=[3.0]",
    "evaluate.teacher_steps=4",
    "evaluate.goals={}",
]


TOKEN = os.environ["RAY_AUTH_TOKEN"]
PLANTED = {
    "HF_TOKEN": "hf_planted-1",
    "MLFLOW_TRACKING_PASSWORD": "planted-2",
    "AWS_SECRET_ACCESS_KEY": "planted-3",
    "RAY_DISTILL_TRACK__URI": "http://ann:planted-4@127.0.0.1:9",
}
"""In the environment of Ray's processes: what a job may find there, and must show nowhere. No server answers."""


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A head as a cluster has it: a token is asked for, jobs can be submitted and have time to save when stopped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_JOB_STOP_WAIT_TIME_S", "120")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        for name, value in PLANTED.items():
            patch.setenv(name, value)
        patch.setenv("JUPYTER_TOKEN", "digits_teacher")  # a folder's name: paths that hold it stay whole
        # A job's `python` is this one, whether or not its environment is activated.
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        context = ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            dashboard_port=free_port(),
            # Workers of one job serve the next test instead of importing everything again.
            _system_config={"idle_worker_killing_time_threshold_ms": 600_000},
            logging_level="ERROR",
            logging_config=ray.LoggingConfig(log_level="ERROR"),
        )
        for name in PLANTED:
            patch.delenv(name)
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


@dataclass(frozen=True)
class Home:
    """A working directory like the checkout's, for all runs of these tests."""

    folder: Path
    manifest: Path

    def overrides(self, name: str, *more: str) -> list[str]:
        """A run of its own beside the quick start, with the same shortened settings."""
        return [f"name={name}", f"output_dir={self.folder / 'output'}", *self._here(), *SHORT, *more]

    def environment(self) -> dict[str, str]:
        """The same settings for a command that is typed as it is documented."""
        pairs = (item.split("=", 1) for item in [*SHORT, *MEASURED])
        return {"RAY_DISTILL_" + key.upper().replace(".", "__"): value for key, value in pairs}

    def _here(self) -> list[str]:
        return [
            f"data.manifest={self.manifest}",
            f"data.cache_dir={self.folder / 'cache'}",
            f"track.uri={self.uri}",
            f"model.path={ROOT / 'examples/digits_teacher'}",
            f"evaluate.metric={ROOT / 'examples/digits_teacher/metric'}",
        ]

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder / 'mlruns/mlflow.db'}"


@pytest.fixture(scope="session")
def home(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("home")
    for name in ("configs", "examples"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "data").mkdir()
    (folder / "data/digits").symlink_to(digits.parent)
    return Home(folder, folder / "data/digits/manifest.jsonl")


@pytest.fixture(scope="session")
def straight(local_ray: None, home: Home) -> Path:
    """The documented command, shortened: what every disturbed run must equal. Its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home.folder)
        for name, value in home.environment().items():
            patch.setenv(name, value)
        # Sixty steps do not make a student: a goal is missed.
        assert main(["train", "configs/quickstart.yaml", "evaluate.goals.accuracy=0.999"]) == 1
    return home.folder / "output/quickstart"


def wait_for(holds: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait until ``holds``; AssertionError names what did not come."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)


def read_rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
