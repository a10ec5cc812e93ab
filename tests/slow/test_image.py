"""Image to video on tiny pipelines, from videos and from pictures to an export that diffusers alone samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_distill.cli import main
from ray_distill.export.verify import verify
from tests.own_codec import with_codec
from tests.slow.images import FULL, LORA, OPTIMIZER, make, tree, written

DMD = {"name": "dmd", "timesteps": "1000,757,522", "student_interval": 2, "teacher_guidance": 2.0}


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
        ("2.1_t2v", DMD, LORA, False, {}),
    ],
)
def test_a_student_from_images_is_trained_evaluated_and_exported(
    local_ray: None, tmp_path: Path, kind: str, method: dict, roles: dict, pictures: bool, model: dict
) -> None:
    """From the clips' own first frames, or from prompts with pictures alone; and from text, where nothing is given."""
    make(tmp_path, kind)
    manifest = {"manifest": str(tmp_path / kind / "clips/manifest.jsonl")}
    prompts = {"prompts": str(tmp_path / "prompts.jsonl"), "image_column": "image"}
    run = tree(tmp_path, kind, method, roles, prompts if pictures else manifest, **model)
    from_image = kind == "2.1_i2v" or bool(model)
    if not from_image:
        run["evaluate"] |= {"prompts": {}, "images": {}}
    path = written(run, tmp_path / "run.yaml")
    assert main(["check", path]) == 0
    assert main(["train", path]) == 0
    (export,) = (tmp_path / "output").glob("*/export")
    assert verify(export, "a blue square") < 1e-4
    assert (export / "pytorch_lora_weights.safetensors").is_file() == ("lora" in roles["student"])
    out = tmp_path / "made.mp4"
    picture = ["--image", str(tmp_path / "blue.png")] if from_image else []
    assert main(["sample", path, "--prompt", "a blue square", "--out", str(out), *picture]) == 0
    assert out.stat().st_size > 0


def test_a_student_from_images_with_a_codec_of_ours_is_trained_evaluated_and_exported(
    local_ray: None, tmp_path: Path
) -> None:
    """The export is given the latents of its picture."""
    make(tmp_path, "2.2_5b")
    with_codec(tmp_path / "own", tmp_path / "2.2_5b")
    manifest = {"manifest": str(tmp_path / "2.2_5b/clips/manifest.jsonl")}
    path = written(tree(tmp_path, "own", DMD, FULL, manifest, from_image=True), tmp_path / "run.yaml")
    assert main(["check", path]) == 0
    assert main(["train", path]) == 0
    assert verify(tmp_path / "output/own/export", "a blue square") < 1e-4
