"""`ray job submit` against a head that asks for a token: exit codes, last lines, a stop that saves."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import ray
from mlflow import MlflowClient
from ray.job_submission import JobStatus, JobSubmissionClient
from ray.util.state import list_actors

from ray_distill.checkpoint import latest
from ray_distill.cli import main
from ray_distill.train.driver import fit
from tests.chaos import compare, faults
from tests.chaos.driver import RawProgress
from tests.ray.conftest import PLANTED, ROOT, STEPS, TOKEN, Home, read_rows, wait_for
from tests.ray.test_train import assert_equal_runs

KINDS = [("kill", phase) for phase in ("data", "forward", "backward", "step", "meet")]
RAY = str(Path(sys.executable).with_name("ray"))


def documented() -> list[str]:
    """The README's submit command up to its configuration, word for word."""
    line = re.search(
        r"^ray (job submit --working-dir .*? configs/quickstart.yaml)", (ROOT / "README.md").read_text(), re.M
    )
    assert line
    return shlex.split(line[1])


def job(*arguments: str, patience_s: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of Ray's, again while the head's agent, which takes jobs, has not come up yet."""
    end = time.monotonic() + patience_s
    while True:
        done = subprocess.run(
            [RAY, *arguments],
            cwd=ROOT,
            env={**os.environ, "RAY_API_SERVER_ADDRESS": os.environ["TEST_DASHBOARD"], **environment},
            capture_output=True,
            text=True,
            timeout=240,
        )
        if "No available agent" not in done.stderr or time.monotonic() > end:
            return done
        time.sleep(1)


def test_a_job_that_fails_says_why_in_its_last_lines(local_ray: None) -> None:
    told = job(*documented(), "train.stepz=4")
    assert told.returncode == 1
    last = told.stdout[-1500:]
    assert "train.stepz: unknown key (command line); did you mean 'steps'?" in last, told.stdout
    assert TOKEN not in told.stdout + told.stderr


def test_without_the_token_nothing_is_submitted(local_ray: None) -> None:
    told = job("job", "list", RAY_AUTH_TOKEN="0" * 64)
    assert told.returncode != 0 and "token authentication" in told.stderr.lower()


def foreign(terminal: str) -> list[str]:
    """Lines that others wrote: Ray's processes and logs, warnings of libraries, tracebacks, bars of progress."""
    others = (
        r"\(\w[\w.:]* pid=\d+|site-packages|\w+Warning\b|^Traceback|^\[?20\d\d-\d\d-\d\d[ T]|\d(it/s|s/it)\]|^\[rank\d"
    )
    lines = [line for line in terminal.splitlines() if "job_manager.py" not in line]
    return [line for line in lines if re.search(others, line)]


@dataclass(frozen=True)
class Stopped:
    """A run whose job was stopped."""

    run: Path
    arguments: list[str]
    step: int
    logs: str


def stop(home: Home, name: str) -> Stopped:
    """Submit a job that trains, and stop it when it does. MLflow, named by the environment, is away, and so is the web
    hook."""
    hook = home.folder / "hook.json"
    hook.write_text('{"callback_url": "http://ann:planted-5@127.0.0.1:9/planted-6"}')
    arguments = [item for item in home.overrides(name) if not item.startswith("track.uri=")]
    arguments.append(f"track.webhook={hook}")
    run = home.folder / "output" / name
    command = documented()
    submitted = job(*command[:2], "--submission-id", name, "--no-wait", *command[2:], *arguments)
    assert submitted.returncode == 0, submitted.stderr
    jobs = JobSubmissionClient(os.environ["TEST_DASHBOARD"])
    # Workers start for seconds after their controller; after the first rows a fast machine may train to the end before
    # a stop.
    alive = [("class_name", "=", "TrainController"), ("state", "=", "ALIVE")]
    wait_for(lambda: bool(list_actors(filters=alive)), "the start of the training", 240)
    jobs.stop_job(name)
    assert job("job", "stop", name).returncode == 0
    logs = jobs.get_job_logs(name)
    assert "SIGTERM: saving" in logs and "the same command goes on from there" in logs
    assert foreign(logs) == []
    assert jobs.get_job_status(name) == JobStatus.STOPPED
    stopped = latest(run)
    assert stopped is not None and 0 < stopped.step < STEPS - 3
    return Stopped(run, arguments, stopped.step, logs)


def assert_whole(stopped: Stopped, straight: Path, home: Home, said: str) -> None:
    """It went on to its end, equals the run that nothing happened to, told no secret, and MLflow gets it all later."""
    run = stopped.run
    assert f"goes on from step {stopped.step}" in said
    assert [row["step"] for row in read_rows(run)] == list(range(STEPS))
    assert_equal_runs(run, straight)
    told = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    told |= {Path("logs"): (stopped.logs + said).encode()}
    assert len(told) > 20 and run / "track.jsonl" in told
    secrets = [*PLANTED.values(), *(f"planted-{number}" for number in range(1, 7)), TOKEN]
    assert [(path, secret) for path, content in told.items() for secret in secrets if secret.encode() in content] == []

    assert main(["track", "sync", str(run), f"track.uri={home.uri}"]) == 0
    client = MlflowClient(home.uri)
    (tracked,) = client.search_runs(
        [client.get_experiment_by_name("ray_distill").experiment_id], f"attributes.run_name = '{run.name}'"
    )
    assert tracked.info.status == "FINISHED" and "report.json" in {
        item.path for item in client.list_artifacts(tracked.info.run_id)
    }
    steps = [point.step for point in client.get_metric_history(tracked.info.run_id, "fake_score/loss")]
    assert sorted(steps) == list(range(STEPS))
    assert "planted" not in f"{tracked.data.params}{tracked.data.tags}"


def stopped_then_killed(
    straight: Path,
    home: Home,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    kills: int,
) -> None:
    """`ray job stop` saves, then ends; the same command goes on. It then suffers a share of `make chaos`: kill -9 of a
    worker at ``kills`` moments from a seed. What went before, what came again and what came after equals the straight
    run."""
    stopped = stop(home, name)
    drawn = faults.plan(KINDS, seed=4)[:kills]
    planned = [replace(fault, step=min(stopped.step + 3 + 5 * n, STEPS - 2)) for n, fault in enumerate(drawn)]
    folder = faults.folder_of(stopped.run)
    folder.mkdir()
    faults.write_plan(folder, planned)
    monkeypatch.setattr(RawProgress, "folder", folder, raising=False)
    monkeypatch.setattr(fit, "train_worker", faults.train_worker)
    monkeypatch.setattr(fit, "Progress", RawProgress)
    for name, value in {**PLANTED, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}.items():
        monkeypatch.setenv(name, value)
    capsys.readouterr()
    assert main(["train", "configs/quickstart.yaml", "train.max_failures=2", *stopped.arguments]) == 0
    told = capsys.readouterr()
    for name in PLANTED:
        monkeypatch.delenv(name)
    assert_whole(stopped, straight, home, told.out + told.err)

    assert all(compare.note(folder, fault) for fault in planned)
    assert compare.differing_rows(stopped.run, straight) == []  # nor do those that were dropped as they came again
    trained: dict[int, dict[int, list[int]]] = {}
    for row in compare.read(folder / faults.SAMPLES):
        assert trained.setdefault(row["step"], {}).setdefault(row["rank"], row["samples"]) == row["samples"]
    assert sorted(trained) == list(range(stopped.step, STEPS))
    for step, ranks in trained.items():  # a global batch of 8, each sample once
        assert sorted(ranks[0] + ranks[1]) == list(range(8 * step, 8 * (step + 1)))


def test_a_job_that_is_stopped_goes_on_and_ends_equal(
    straight: Path, home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No kill; slow/test_job has two in one run."""
    stopped_then_killed(straight, home, capsys, monkeypatch, "stopped", kills=0)


def test_what_is_uploaded_is_small_and_only_code(local_ray: None) -> None:
    session = Path(ray.worker._global_node.get_session_dir_path())
    (uploaded, *_) = (session / "runtime_resources/working_dir_files").glob("_ray_pkg_*/")
    top = {path.name for path in uploaded.iterdir()}
    assert {"train.py", "ray_distill", "configs", "examples"} <= top
    assert not top & {".git", ".venv", "data", "output", "mlruns", "tests", "cache"}
    assert sum(path.stat().st_size for path in uploaded.rglob("*") if path.is_file()) < 10 << 20
