"""A short run of two experts from pictures, from prompts to an export."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file

from ray_distill.checkpoint import latest
from ray_distill.cli import main
from tests.ray.conftest import ROOT
from tests.two_experts import TRAINED

sys.path.insert(0, str(ROOT / "examples"))
import tiny_wan


def test_two_experts_learn_from_pictures_and_leave_as_one_pipeline(local_ray: None, tmp_path: Path) -> None:
    """High for two steps, then low: the workers change their networks in between."""
    tiny_wan.main([str(tmp_path / "model"), "--kind", "2.2_a14b_i2v"])
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"caption": "a red square", "image": "red.png"}))
    trained = {"optimizer": {"learning_rate": 1.0e-3}}
    run = {
        "name": "run",
        "output_dir": str(tmp_path),
        "model": {"path": str(tmp_path / "model"), "max_sequence_length": 16},
        "method": {"name": "dmd_phased", "boundary": 0.9, "flow_shift": 9.0, "high_steps": 2, "student_interval": 2},
        "roles": dict.fromkeys(TRAINED, trained),
        "data": {
            "datasets": [{"prompts": str(tmp_path / "prompts.jsonl"), "image_column": "image"}],
            **{"frames": 5, "height": 32, "width": 32, "cache_dir": str(tmp_path / "cache")},
        },
        "train": {"steps": 4, "global_batch": 2, "micro_batch": 2, "cpus_per_worker": 0.5},
        "track": {"uri": ""},
        "evaluate": {"enabled": False},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    assert main(["train", str(tmp_path / "run.yaml")]) == 0
    last, export = latest(tmp_path / "run"), tmp_path / "run/export"
    assert last is not None and {role: state["updates"] for role, state in last.state["roles"].items()} == {
        **{"student": 1, "student_low": 1, "fake_score_low": 2}
    }
    index = json.loads((export / "model_index.json").read_text())
    assert index["_class_name"] == "WanImageToVideoPipeline"
    assert index["boundary_ratio"] == pytest.approx((964.2857 + 900) / 2000, abs=1e-4)
    for name in ("transformer", "transformer_2"):
        before, after = (load_file(next((home / name).glob("*.safetensors"))) for home in (tmp_path / "model", export))
        moved = max((before[key] - after[key]).abs().max() for key in before)
        assert 1e-4 < moved < 2e-3, name  # one step of Adam
