"""SimpleTuner's quick starts, by the documented commands: their JSON as it stands, on a tiny random Wan."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ray_distill.checkpoint import latest
from ray_distill.cli import main
from ray_distill.train import launch
from tests.ray.conftest import ROOT

SEEDS = "tests/data/simpletuner"


def documented(seed: str) -> list[str]:
    """The arguments of the command of docs/simpletuner.md that trains ``seed``."""
    text = (ROOT / "docs/simpletuner.md").read_text().replace("\\\n", "")
    found = re.search(rf"^ray-distill (train {SEEDS}/{seed} .*)$", text, re.M)
    assert found
    return shlex.split(found[1])


@pytest.fixture
def tiny_wan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the model and the clips that the documented command makes."""
    script = [sys.executable, ROOT / "examples/tiny_wan.py", "models/tiny_wan", "--clips", "8"]
    subprocess.run(script, cwd=tmp_path, check=True, timeout=120)
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models/tiny_wan"


def run_of(folder: Path) -> Path:
    (manifest,) = folder.glob("output/*/*/export/recipe.json")
    return manifest.parents[1]


def test_the_dmd_seed_runs(local_ray: None, tiny_wan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []  # not capfd: Ray would keep the stream that it closes
    monkeypatch.setattr(launch, "say", said.append)
    assert main(documented("dmd_config.json")) == 0
    wanted = "student steps 1000, 757, 522 (sde); guidance u + s (c - u), 1 is off: teacher s = 3"
    assert any(wanted in line for line in said)
    run = run_of(Path.cwd())
    recipe = json.loads((run / "export/recipe.json").read_text())
    assert recipe["timesteps"] == [1000.0, 757.0, 522.0]
    last = latest(run, thorough=True)
    assert last is not None and last.state["roles"]["student"] == {"updates": 6, "skipped": 0}
    assert (run / "validation_videos/step_000006").is_dir() and (run / "baseline").is_dir()
    assert (run / "export/pytorch_lora_weights.safetensors").is_file()


def test_the_dcm_seed_runs(local_ray: None, tiny_wan: Path) -> None:
    assert main(documented("dcm_config.json")) == 0
    recipe = json.loads((run_of(Path.cwd()) / "export/recipe.json").read_text())
    assert recipe["kind"] == "ode" and 0 < recipe["boundary_ratio"] < 1
