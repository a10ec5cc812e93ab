"""LTX-2 on a tiny pipeline, from prompts to an export that diffusers alone samples, and to mp4 with sound."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import pytest
import yaml

from ray_distill.cli import main
from ray_distill.export.verify import verify
from tests.ray.conftest import ROOT
from tests.unit.data.heard import click, write

OPTIMIZER = {"learning_rate": 1.0e-4}
WHOLE = {"student": {"zero": 2, "ema_decay": 0.9}, "fake_score": {"zero": 2}, "teacher": {"zero": 3}}
SHARED = {"student": {"lora": {"rank": 2}}, "fake_score": {"lora": {"rank": 2}}, "teacher": {"zero": 3}}


@pytest.mark.parametrize(
    ("roles", "shared", "files"), [(WHOLE, False, False), (SHARED, True, False), (WHOLE, False, True)]
)
def test_a_student_with_sound_is_trained_evaluated_and_exported(
    local_ray: None, tmp_path: Path, roles: dict, shared: bool, files: bool
) -> None:
    """Two workers, as whole weights or as adapters on a shared base; from prompts, or from files with sound."""
    script = [sys.executable, ROOT / "examples/tiny_ltx2.py", tmp_path / "model"]
    subprocess.run(script, check=True, timeout=300)
    (tmp_path / "prompts.txt").write_text("a red kite\na dog barks\n")
    (tmp_path / "clips").mkdir()
    for number in range(4):  # the first has no sound
        write(tmp_path / f"clips/a dog barks {number}.mp4", click(1, 0.2) if number else None, frames=24)
    prompts = {"prompts": str(tmp_path / "prompts.txt")}
    videos = {"videos": str(tmp_path / "clips"), "captions": "filename"}
    trained = {role: held | ({} if role == "teacher" else {"optimizer": OPTIMIZER}) for role, held in roles.items()}
    run = {
        "name": "tiny",
        "output_dir": str(tmp_path),
        "model": {
            "family": "ltx2",
            "path": str(tmp_path / "model"),
            "max_sequence_length": 16,
            "shared_base": shared,
        },
        "method": {
            "name": "dmd",
            "timesteps": "1000,750,500",
            "student_interval": 2,
            "teacher_guidance": 2.0,
            "audio_guidance": 3.0,
            "backward_simulation": not files,
        },
        "roles": trained,
        "data": {
            "datasets": [videos if files else prompts],
            "frames": 9,
            "height": 64,
            "width": 64,
            "fps": 24,
            "cache_dir": str(tmp_path / "cache"),
        },
        "train": {"steps": 2, "workers": 2, "cpus_per_worker": 0.5, "global_batch": 2, "micro_batch": 1},
        "track": {"uri": ""},
        "evaluate": {"seeds": [1], "pictures": 1, "teacher_steps": 2},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    assert main(["check", str(path)]) == 0 and main(["train", str(path)]) == 0
    if files:
        (silent,) = (tmp_path / "cache").glob("*/silent.jsonl")
        assert [json.loads(line)["heard"] for line in silent.read_text().splitlines()] == [0]
    export = tmp_path / "tiny/export"
    assert verify(export, "a dog barks") < 1e-4
    videos = [*(tmp_path / "tiny").rglob("student/*.mp4"), *(tmp_path / "tiny").rglob("teacher_many/*.mp4")]
    assert len(videos) >= 2 and all(streams(video) == ["video", "audio"] for video in videos)
    assert main(["sample", str(path), "--prompt", "a dog barks", "--out", str(tmp_path / "ours.mp4")]) == 0
    subprocess.run([sys.executable, export / "sample.py", "a dog barks", tmp_path / "theirs.mp4"], check=True)
    for name in ("ours.mp4", "theirs.mp4"):
        assert streams(tmp_path / name) == ["video", "audio"]
        with av.open(str(tmp_path / name)) as container:
            assert container.streams.video[0].frames == 9


def streams(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        return [stream.type for stream in container.streams]
