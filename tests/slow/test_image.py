"""Image to video on tiny pipelines, from videos and from pictures to an export that diffusers alone samples."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from ray_distill.cli import main
from ray_distill.export.verify import verify
from tests.ray.conftest import ROOT

DMD = {"name": "dmd", "timesteps": "1000,757,522", "student_interval": 2, "teacher_guidance": 2.0}
OPTIMIZER = {"learning_rate": 1.0e-4}


def make(home: Path, kind: str) -> None:
    """The pipeline and clips of a kind, and prompts with pictures."""
    script = [sys.executable, ROOT / "examples/tiny_wan.py", home / kind, "--kind", kind, "--clips", "4"]
    subprocess.run(script, check=True, timeout=300)
    for name in ("red", "blue"):
        Image.new("RGB", (120, 90), name).save(home / f"{name}.png")
    rows = [{"caption": f"a {name} square", "image": f"{name}.png"} for name in ("red", "blue")]
    (home / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (home / "images.json").write_text(json.dumps({"first": "red.png"}))


def config(home: Path, kind: str, method: dict, roles: dict, dataset: dict, **model) -> Path:
    tree = {
        "name": kind.replace(".", "_"),
        "output_dir": str(home / "output"),
        "model": {"path": str(home / kind), "max_sequence_length": 512, **model},
        "method": method,
        "roles": roles,
        "data": {"datasets": [dataset], "frames": 5, "height": 64, "width": 96, "cache_dir": str(home / "cache")},
        "train": {"steps": 2, "global_batch": 2, "micro_batch": 1, "workers": 1},
        "track": {"uri": ""},
        "evaluate": {"every": 2, "seeds": [1], "pictures": 1, "videos": 2, "batch": 1, "teacher_steps": 2},
    }
    tree["evaluate"] |= {"prompts": {"first": "a red square"}, "images": str(home / "images.json")}
    path = home / f"{kind}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


LORA = {"student": {"optimizer": OPTIMIZER, "lora": {"rank": 2}}, "fake_score": {"optimizer": OPTIMIZER}}
FULL = {"student": {"optimizer": OPTIMIZER}, "fake_score": {"optimizer": OPTIMIZER}}


@pytest.mark.parametrize(
    ("kind", "method", "roles", "pictures", "model"),
    [
        ("2.1_i2v", DMD, LORA, False, {}),
        ("2.1_i2v", DMD, FULL, True, {}),
        ("2.2_5b", DMD, FULL, False, {"from_image": True}),
        ("2.2_5b", DMD, FULL, True, {"from_image": True}),
        (
            "2.2_5b",
            {"name": "lcm", "sampling_steps": 2},
            {"student": {"optimizer": OPTIMIZER}},
            False,
            {"from_image": True},
        ),
        ("2.2_5b", DMD, FULL, False, {}),
    ],
)
def test_a_student_from_images_is_trained_evaluated_and_exported(
    local_ray: None, tmp_path: Path, kind: str, method: dict, roles: dict, pictures: bool, model: dict
) -> None:
    """From the clips' own first frames, or from prompts with pictures alone."""
    make(tmp_path, kind)
    manifest = {"manifest": str(tmp_path / kind / "clips/manifest.jsonl")}
    prompts = {"prompts": str(tmp_path / "prompts.jsonl"), "image_column": "image"}
    path = config(tmp_path, kind, method, roles, prompts if pictures else manifest, **model)
    from_image = kind == "2.1_i2v" or bool(model)
    given = [] if from_image else ["evaluate.prompts={}", "evaluate.images={}"]
    assert main(["check", str(path), *given]) == 0
    assert main(["train", str(path), *given]) == 0
    (export,) = (tmp_path / "output").glob("*/export")
    assert verify(export, "a blue square") < 1e-4
    assert (export / "pytorch_lora_weights.safetensors").is_file() == ("lora" in roles["student"])
    out = tmp_path / "made.mp4"
    picture = ["--image", str(tmp_path / "blue.png")] if from_image else []
    assert main(["sample", str(path), *given, "--prompt", "a blue square", "--out", str(out), *picture]) == 0
    assert out.stat().st_size > 0
