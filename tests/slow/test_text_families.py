"""CogVideoX and HunyuanVideo 1.5 on tiny pipelines, from prompts or clips to exports that diffusers alone samples."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import pytest
import yaml
from PIL import Image

from ray_distill.cli import main
from ray_distill.export.verify import verify
from tests.ray.conftest import ROOT

OPTIMIZER = {"learning_rate": 1.0e-4}
ADAPTER = {"lora": {"rank": 2}, "optimizer": OPTIMIZER}
DMD = {"name": "dmd", "timesteps": "1000,750,500", "student_interval": 2, "teacher_guidance": 2.0}
WHOLE = {
    "student": {"zero": 3, "ema_decay": 0.9, "optimizer": OPTIMIZER},
    "fake_score": {"zero": 2, "optimizer": OPTIMIZER},
    "teacher": {"zero": 3},
}
SHARED = {"student": ADAPTER, "fake_score": ADAPTER, "teacher": {"zero": 3}}
LCM = {"student": {"zero": 2, "optimizer": OPTIMIZER}}


@pytest.mark.parametrize(
    ("family", "kind", "method", "roles", "shared"),
    [
        ("cogvideox", ["--kind", "5b"], DMD, WHOLE, False),
        ("cogvideox", ["--kind", "5b"], DMD, SHARED, True),
        ("cogvideox", ["--kind", "2b"], {"name": "lcm"}, LCM, False),
        ("hunyuan15", [], DMD, WHOLE, False),
        ("hunyuan15", [], DMD, SHARED, True),
        ("hunyuan15", ["--from-image"], {"name": "lcm"}, LCM, False),
        ("hunyuan15", ["--from-image"], DMD, SHARED, True),
    ],
    ids=[
        "cogvideox-whole",
        "cogvideox-shared",
        "cogvideox-clips",
        "hunyuan15-whole",
        "hunyuan15-shared",
        "hunyuan15-image-clips",
        "hunyuan15-image-shared",
    ],
)
def test_a_student_is_trained_evaluated_and_exported(
    local_ray: None, tmp_path: Path, family: str, kind: list[str], method: dict, roles: dict, shared: bool
) -> None:
    """Two workers: whole weights, adapters on a shared base, or a method that learns from clips; from text, or from
    pictures and first frames."""
    from_image, picture = "--from-image" in kind, tmp_path / "red.png"
    script = [sys.executable, ROOT / f"examples/tiny_{family}.py", tmp_path / "model", *kind]
    subprocess.run(script, check=True, timeout=300)
    (tmp_path / "prompts.txt").write_text('a red kite\na "dog" barks\n')
    data: dict = {"datasets": [{"prompts": str(tmp_path / "prompts.txt")}]}
    if from_image:
        Image.new("RGB", (120, 90), "red").save(picture)
        (tmp_path / "prompts.jsonl").write_text(json.dumps({"caption": 'a "red" square', "image": "red.png"}) + "\n")
        data = {"datasets": [{"prompts": str(tmp_path / "prompts.jsonl"), "image_column": "image"}]}
    if method["name"] == "lcm":
        clips = [sys.executable, ROOT / "examples/tiny_wan.py", tmp_path / "wan", "--clips", "2"]
        subprocess.run(clips, check=True, timeout=300)
        data = {"manifest": str(tmp_path / "wan/clips/manifest.jsonl"), "stride": 1}
    run = {
        "name": "tiny",
        "output_dir": str(tmp_path),
        "model": {
            "family": family,
            "path": str(tmp_path / "model"),
            "max_sequence_length": 16,
            "shared_base": shared,
        },
        "method": method,
        "roles": roles,
        "data": data | {"frames": 9, "height": 64, "width": 64, "fps": 8, "cache_dir": str(tmp_path / "cache")},
        "train": {"steps": 2, "workers": 2, "cpus_per_worker": 0.5, "global_batch": 2, "micro_batch": 1},
        "track": {"uri": ""},
        "evaluate": {"seeds": [1], "pictures": 1, "teacher_steps": 2},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    assert main(["check", str(path)]) == 0 and main(["train", str(path)]) == 0
    export = tmp_path / "tiny/export"
    assert verify(export, "a dog barks") < 1e-4
    pictures = [picture] if from_image else []
    subprocess.run(
        [sys.executable, export / "sample.py", "a dog barks", *pictures, tmp_path / "theirs.mp4"], check=True
    )
    with av.open(str(tmp_path / "theirs.mp4")) as container:
        assert container.streams.video[0].frames == 9
