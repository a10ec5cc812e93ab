"""Two experts on tiny pipelines of Wan 2.2 A14B, from videos to an export that diffusers alone samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from safetensors.torch import load_file

from ray_distill.checkpoint import latest
from ray_distill.cli import main
from ray_distill.export.verify import verify
from tests.slow.images import FULL, LORA, make, tree, written

PHASED = {"name": "dmd_phased", "student_interval": 1, "high_steps": 2, "teacher_guidance": [2.0, 1.5]}
IMAGE = {"boundary": 0.9, "flow_shift": 9.0, "score_shift": 9.0}


@pytest.mark.parametrize(
    ("kind", "method", "roles", "pictures"),
    [
        ("2.2_a14b_t2v", {}, FULL, False),
        ("2.2_a14b_i2v", IMAGE, FULL, False),
        ("2.2_a14b_i2v", IMAGE | {"schedule": "alternating"}, LORA, True),
    ],
)
def test_two_experts_are_trained_evaluated_and_exported(
    local_ray: None, tmp_path: Path, kind: str, method: dict, roles: dict, pictures: bool
) -> None:
    """From clips, or from prompts with pictures alone; one expert after the other, or in turns as adapters."""
    make(tmp_path, kind)
    manifest = {"manifest": str(tmp_path / kind / "clips/manifest.jsonl")}
    prompts = {"prompts": str(tmp_path / "prompts.jsonl"), "image_column": "image"}
    both = roles | {f"{role}_low": roles[role] for role in roles}
    run = tree(tmp_path, kind, PHASED | method, both, prompts if pictures else manifest)
    run["train"]["steps"] = 4
    from_image = kind == "2.2_a14b_i2v"
    if not from_image:
        run["evaluate"]["images"] = {}
    path = written(run, tmp_path / "run.yaml")
    assert main(["check", path]) == 0
    assert main(["train", path]) == 0
    (export,) = (tmp_path / "output").glob("*/export")
    last = latest(export.parent)
    assert last is not None
    assert {role: last.state["roles"][role]["updates"] for role in ("student", "student_low")} == {
        "student": 2,
        "student_low": 2,
    }
    assert verify(export, "a blue square") < 1e-4
    expected = WanImageToVideoPipeline if from_image else WanPipeline
    base = expected.from_pretrained(tmp_path / kind, local_files_only=True)
    parts = {"text_encoder": base.text_encoder, "tokenizer": base.tokenizer, "vae": base.vae}
    pipeline = expected.from_pretrained(export, local_files_only=True, **parts)
    assert json.loads((export / "model_index.json").read_text())["_class_name"] == expected.__name__
    assert pipeline.config.boundary_ratio == pytest.approx(0.93 if from_image else 0.9148, abs=0.01)
    if "lora" in roles["student"]:
        for name, place in (("", "transformer"), ("_2", "transformer_2")):
            file, low = f"pytorch_lora_weights{name}.safetensors", {"load_into_transformer_2": place[-1] == "2"}
            base.load_lora_weights(export, weight_name=file, local_files_only=True, **low)
            getattr(base, place).fuse_lora()
            getattr(base, place).unload_lora()
    own = {name: load_file(next((export / name).glob("*.safetensors"))) for name in ("transformer", "transformer_2")}
    for name, tensors in own.items():
        begun = load_file(next((tmp_path / kind / name).glob("*.safetensors")))
        assert any(not torch.equal(begun[key], tensors[key]) for key in tensors), f"{name} was not trained"
        if "lora" in roles["student"]:
            for key, tensor in getattr(base, name).state_dict().items():
                torch.testing.assert_close(tensor, tensors[key], atol=1e-5, rtol=1e-4)
    out, picture = tmp_path / "made.mp4", ["--image", str(tmp_path / "blue.png")] if from_image else []
    assert main(["sample", path, "--prompt", "a blue square", "--out", str(out), *picture]) == 0
    assert out.stat().st_size > 0
