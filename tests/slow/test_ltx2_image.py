"""LTX-2 from an image on a tiny pipeline, from pictures or files with sound to an export that diffusers samples."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ray_distill.cli import main
from ray_distill.export.verify import verify
from tests.ray.conftest import ROOT
from tests.slow.test_ltx2 import OPTIMIZER, SHARED, WHOLE, streams
from tests.unit.data.heard import click, write


@pytest.mark.parametrize(("roles", "shared", "files"), [(WHOLE, False, False), (SHARED, True, True)])
def test_a_student_with_sound_is_trained_from_images(
    local_ray: None, tmp_path: Path, roles: dict, shared: bool, files: bool
) -> None:
    """From prompts with pictures as whole weights, or from clips' own first frames as adapters on a shared base; the
    preflight, validations and the evaluation begin from pictures that are given."""
    script = [sys.executable, ROOT / "examples/tiny_ltx2.py", tmp_path / "model"]
    subprocess.run(script, check=True, timeout=300)
    pixels = np.random.default_rng(0).integers(0, 256, (96, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "kite.png")
    captions = "a red kite", "a dog barks"
    lines = [json.dumps({"caption": caption, "image": "kite.png"}) for caption in captions]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    (tmp_path / "clips").mkdir()
    for number in range(2):
        write(tmp_path / f"clips/a dog barks {number}.mp4", click(1, 0.2 + 0.1 * number), frames=24)
    pictures = {"prompts": str(tmp_path / "prompts.jsonl"), "image_column": "image"}
    videos = {"videos": str(tmp_path / "clips"), "captions": "filename"}
    trained = {role: part | ({} if role == "teacher" else {"optimizer": OPTIMIZER}) for role, part in roles.items()}
    model = {"family": "ltx2", "path": str(tmp_path / "model"), "max_sequence_length": 16}
    run = {
        "name": "tiny",
        "output_dir": str(tmp_path),
        "model": model | {"from_image": True, "shared_base": shared},
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
            "datasets": [videos if files else pictures],
            "frames": 9,
            "height": 64,
            "width": 64,
            "fps": 24,
            "cache_dir": str(tmp_path / "cache"),
        },
        "train": {"steps": 2, "workers": 2, "cpus_per_worker": 0.5, "global_batch": 2, "micro_batch": 1},
        "track": {"uri": ""},
        "evaluate": {
            "seeds": [1],
            "pictures": 1,
            "teacher_steps": 2,
            "teacher_audio_guidance": 3.0,
            "every": 2,
            "prompts": {"kite": captions[0]},
            "images": {"kite": str(tmp_path / "kite.png")},
            "preflight": {"cycles": 0, "clips": 2, "steps": 2},
        },
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    assert main(["check", str(path)]) == 0
    if not files:
        assert main(["preflight", str(path)]) == 0
        assert (compared := (tmp_path / "tiny/preflight/preflight.json")).is_file()
        assert json.loads(compared.read_text())["difference"] < 1e-4
    assert main(["train", str(path)]) == 0
    export = tmp_path / "tiny/export"
    assert verify(export, captions[0], image=tmp_path / "kite.png") < 1e-4
    shown = [*(tmp_path / "tiny").rglob("student/*.mp4"), *(tmp_path / "tiny").rglob("teacher_many/*.mp4")]
    assert len(shown) >= 2 and all(streams(video) == ["video", "audio"] for video in shown)
    picture = ["--image", str(tmp_path / "kite.png")]
    assert main(["sample", str(path), "--prompt", captions[0], "--out", str(tmp_path / "ours.mp4"), *picture]) == 0
    theirs = [captions[0], tmp_path / "kite.png", tmp_path / "theirs.mp4"]
    subprocess.run([sys.executable, export / "sample.py", *theirs], check=True)
    assert all(streams(tmp_path / name) == ["video", "audio"] for name in ("ours.mp4", "theirs.mp4"))
