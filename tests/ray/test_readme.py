"""The README's commands, word for word, on a shortened quick start."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_distill.cli import main
from tests.ray.conftest import ROOT


def commands(section: str) -> list[str]:
    """The lines of the first code block after a heading, without their comments."""
    text = (ROOT / "README.md").read_text()
    block = re.search(r"```\n(.*?)```", text[text.index(section) :], re.S)
    assert block
    return [line.partition("   #")[0].strip() for line in block[1].splitlines()]


@pytest.fixture
def shortened(overrides: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory like the checkout's, and the environment that shortens the quick start."""
    for name in ("configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    ours = ("name=", "output_dir=", "data.", "track.", "model.path", "evaluate.metric")
    more = ["evaluate.enabled=true", "evaluate.videos=40", "evaluate.seeds=[1]", "evaluate.teacher_steps=2"]
    more += ["evaluate.guidance_grid=[2.0]", "evaluate.shift_grid=[3.0]", "evaluate.goals={}", "train.steps=4"]
    for item in overrides("readme", *more):
        key, _, value = item.partition("=")
        if not key.startswith(tuple(prefix.rstrip("=") for prefix in ours)):
            monkeypatch.setenv("RAY_DISTILL_" + key.upper().replace(".", "__"), value)
    return tmp_path


def test_the_commands_of_the_readme_run(local_ray: None, shortened: Path) -> None:
    ran = []
    for line in commands("## How to use it"):
        program, *arguments = shlex.split(line)
        if program == "ray-distill":
            assert main(arguments) == 0, line
        elif program == "python":
            more = ["--count", "40"] if "moving_digits" in line else []
            subprocess.run([sys.executable, *arguments, *more], check=True, timeout=120)
        else:
            assert serves([program, *arguments]), line
        ran.append(program)
    assert ran.count("ray-distill") == 7 and ran[-1] == "mlflow"
    assert {"seven.mp4", "seven.safetensors", "quickstart"} <= {path.name for path in (shortened / "output").iterdir()}


def serves(command: list[str]) -> bool:
    """Starts the documented server on another port, asks it for its page, and ends it."""
    program = Path(sys.executable).with_name(command[0])
    process = subprocess.Popen([program, *command[1:], "--port", "53971"], stderr=subprocess.DEVNULL, env=os.environ)
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
    assert "ray-distill VERB CONFIG" in told.stdout
