"""cluster/slurm.sh run with programs in place of Slurm's and Ray's, which write down what they were given."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "cluster" / "slurm.sh"

PROGRAMS = {
    # As srun: a task's exit code is its own.
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    # As `ray symmetric-run` on the head: the command behind "--", as a child that no signal is passed on to.
    "ray": 'printf "%s\\n" "$@" >ray.txt; env >env.txt; while [[ $1 != -- ]]; do shift; done; shift; "$@"; exit $?',
    "scontrol": 'if [[ $1 == show ]]; then printf "n1\\nn2\\n"; else echo "$@" >scontrol.txt; fi',
}
DRIVER = """
import os, pathlib, signal, sys, time
def save(*_):
    time.sleep(0.2)
    pathlib.Path("saved").touch()
    sys.exit(128 + signal.SIGTERM)
signal.signal(signal.SIGTERM, save)
pathlib.Path("driver.txt").write_text("\\n".join([os.environ["RAY_ADDRESS"], *sys.argv[1:]]))
time.sleep(float(os.environ["DRIVER_SECONDS"]))
sys.exit(int(os.environ["DRIVER_CODE"]))
"""


@pytest.fixture
def submit(tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    (programs / "python").symlink_to(sys.executable)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    (tmp_path / "train.py").write_text(DRIVER)
    slurm = {"JOB_ID": "7", "JOB_NODELIST": "n[1-2]", "JOB_NUM_NODES": "2", "CPUS_PER_TASK": "64", "GPUS_ON_NODE": "8"}

    def submit(seconds: float = 0, code: int = 0) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SHARED"))}
        environment |= {f"SLURM_{name}": value for name, value in slurm.items()}
        environment |= {"PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
        environment |= {"DRIVER_SECONDS": str(seconds), "DRIVER_CODE": str(code)}
        return subprocess.Popen(["bash", str(SCRIPT), "run.yaml", "name=a b"], cwd=tmp_path, env=environment)

    return submit


def test_bash_parses_it() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


def test_ray_runs_the_driver_on_the_head_with_its_own_token(
    submit: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    assert submit().wait(20) == 0
    assert (tmp_path / "driver.txt").read_text().splitlines() == ["n1:6379", "run.yaml", "name=a b"]
    given = dict(line.split("=", 1) for line in (tmp_path / "env.txt").read_text().splitlines() if "=" in line)
    assert given["RAY_AUTH_MODE"] == "token" and re.fullmatch(r"[0-9a-f]{64}", given["RAY_AUTH_TOKEN"])
    assert "RAY_ADDRESS" not in given  # `ray start` would take it for a cluster to join
    assert not (tmp_path / "scontrol.txt").exists()


def test_symmetric_run_takes_these_options(submit: Callable[..., subprocess.Popen[bytes]], tmp_path: Path) -> None:
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    assert submit().wait(20) == 0
    command, *options = (tmp_path / "ray.txt").read_text().splitlines()
    assert command == "symmetric-run"
    options = options[: options.index("--")]
    left = curate_and_validate_ray_start_args([*options])  # it empties what it is given
    assert left == ["--num-cpus=64", "--num-gpus=8"] and len(options) == len(left) + 4
    start.make_context("start", left)  # raises for an option that `ray start` does not know


def test_near_the_time_limit_the_driver_saves_and_the_job_is_queued_again(
    submit: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    job = submit(seconds=60)
    wait_for(tmp_path / "driver.txt")
    job.send_signal(signal.SIGTERM)  # what `--signal=B:TERM@600` does
    assert job.wait(20) == 128 + signal.SIGTERM
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 7\n"


def test_a_run_that_fails_or_ends_is_not_queued_again(
    submit: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    assert submit(code=2).wait(20) == 2
    assert submit(code=0).wait(20) == 0
    assert not (tmp_path / "scontrol.txt").exists()


def test_what_slurm_is_told() -> None:
    lines = SCRIPT.read_text().splitlines()
    given = [line.split()[1] for line in lines if line.startswith("#SBATCH ")]
    assert {"--requeue", "--ntasks-per-node=1", "--exclusive", "--open-mode=append"} <= set(given)
    assert "--signal=B:TERM@600" in given
    # Slurm reads directives up to the first command.
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])


def wait_for(path: Path, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.05)
