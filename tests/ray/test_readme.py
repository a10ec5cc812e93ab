"""The README's commands, word for word, on a shortened quick start."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from ray_distill.cli import main
from tests.ray.conftest import ROOT, Home


def commands(section: str, document: str = "README.md") -> list[str]:
    """The lines of the first code block after a heading, without their comments."""
    text = (ROOT / document).read_text()
    block = re.search(r"```\n(.*?)```", text[text.index(section) :], re.S)
    assert block
    return [line.partition("   #")[0].strip() for line in block[1].splitlines()]


def test_the_commands_of_the_readme_run(straight: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """``straight`` ran the training; the others work on what it left."""
    monkeypatch.chdir(home.folder)
    for name, value in home.environment().items():
        monkeypatch.setenv(name, value)
    ran = []
    for line in commands("## How to use it"):
        program, *arguments = shlex.split(line)
        if program == "ray-distill" and arguments[0] in ("train", "tune"):
            continue  # ``straight`` is the one, and test_tune.py runs the other, shortened
        if program == "ray-distill":
            assert main(arguments) == 0, line
        elif program == "python":
            more = ["--count", "60"] if "moving_digits" in line else []
            subprocess.run([sys.executable, *arguments, *more], check=True, timeout=120)
        else:
            assert serves([program, *arguments]), line
        ran.append(program)
    assert ran.count("ray-distill") == 9 and ran[-1] == "mlflow"
    assert {"seven.mp4", "seven.safetensors"} <= {path.name for path in (home.folder / "output").iterdir()}


def test_the_student_comes_out_of_the_registry_as_documented(straight: Path, home: Home) -> None:
    lines = commands("The student is registered", "docs/mlflow.md")
    activated = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", "-ec", "\n".join(lines)], cwd=home.folder, env=activated, check=True, timeout=120)
    assert {"transformer", "scheduler", "recipe.json"} <= {path.name for path in (home.folder / "student").iterdir()}


def serves(command: list[str]) -> bool:
    """Starts the documented server on another port, asks it for its page, and ends it. It has one worker and runs no
    jobs of its own: by default both cost it eleven processes more."""
    program = Path(sys.executable).with_name(command[0])
    process = subprocess.Popen(
        [program, *command[1:], "--port", "53971", "--workers", "1"],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )
    try:
        for _ in range(120):
            try:
                with urllib.request.urlopen("http://127.0.0.1:53971/", timeout=5) as answer:
                    return answer.status == 200
            except OSError:
                assert process.poll() is None, "the server ended"
                time.sleep(0.5)
        return False
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_train_py_is_ray_distill_train() -> None:
    told = subprocess.run([sys.executable, ROOT / "train.py", "--help"], capture_output=True, text=True, check=True)
    assert "usage: ray-distill train" in told.stdout and "--no-push" in told.stdout
