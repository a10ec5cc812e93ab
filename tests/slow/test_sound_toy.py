"""The toy of picture and sound goes from its shipped teacher to an export that docs/sound_toy.py measures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ray_distill.cli import main
from tests.ray.conftest import ROOT

sys.path.insert(0, str(ROOT / "docs"))
sys.path.insert(0, str(ROOT / "examples"))
import digits_with_sound_pipeline
import sound_toy

TEACHER = ROOT / "examples/digits_with_sound_teacher"


def test_a_student_is_trained_by_its_configuration_and_measured(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digits_with_sound_pipeline.complete(TEACHER, tmp_path / "pipeline")
    prompts = f"[{{prompts: {ROOT / 'examples/digits_with_sound_prompts.txt'}}}]"
    changes = [f"model.path={tmp_path / 'pipeline'}", f"output_dir={tmp_path}", f"data.datasets={prompts}"]
    changes += [f"data.cache_dir={tmp_path / 'cache'}", "track.uri=", "train.steps=5", "train.checkpoint_every=5"]
    assert main(["train", str(ROOT / "configs/digits_with_sound.yaml"), *changes]) == 0
    export = tmp_path / "digits_with_sound/export"
    monkeypatch.setattr(sound_toy, "COUNT", 40)
    monkeypatch.setattr(sys, "argv", ["script", str(TEACHER), str(tmp_path / "work"), "--export", str(export)])
    capsys.readouterr()
    sound_toy.main()
    table = capsys.readouterr().out.splitlines()
    assert table[4].startswith("| `digits_with_sound` | 4 |") and len(table) == 6
    subprocess.run([sys.executable, export / "sample.py", "a seven", tmp_path / "one.safetensors"], check=True)
