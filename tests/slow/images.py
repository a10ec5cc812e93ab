"""Tiny pipelines with clips and pictures, and configurations of short runs on them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from tests.ray.conftest import ROOT

OPTIMIZER = {"learning_rate": 1.0e-4}
FULL: dict[str, Any] = {"student": {"optimizer": OPTIMIZER}, "fake_score": {"optimizer": OPTIMIZER}}
LORA: dict[str, Any] = FULL | {"student": {"optimizer": OPTIMIZER, "lora": {"rank": 2}}}


def make(home: Path, kind: str) -> None:
    """The pipeline and clips of a kind, and prompts with pictures."""
    script = [sys.executable, ROOT / "examples/tiny_wan.py", home / kind, "--kind", kind, "--clips", "4"]
    subprocess.run(script, check=True, timeout=300)
    for name in ("red", "blue"):
        Image.new("RGB", (120, 90), name).save(home / f"{name}.png")
    rows = [{"caption": f"a {name} square", "image": f"{name}.png"} for name in ("red", "blue")]
    (home / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (home / "images.json").write_text(json.dumps({"first": "red.png"}))


def tree(home: Path, kind: str, method: dict, roles: dict, dataset: dict, **model) -> dict[str, Any]:
    """A run of two steps with an evaluation of one prompt."""
    return {
        "name": kind.replace(".", "_"),
        "output_dir": str(home / "output"),
        "model": {"path": str(home / kind), "max_sequence_length": 512, **model},
        "method": method,
        "roles": roles,
        "data": {"datasets": [dataset], "frames": 5, "height": 64, "width": 96, "cache_dir": str(home / "cache")},
        "train": {"steps": 2, "global_batch": 2, "micro_batch": 1, "workers": 1},
        "track": {"uri": ""},
        "evaluate": {
            "every": 2,
            "seeds": [1],
            "pictures": 1,
            "videos": 2,
            "batch": 1,
            "teacher_steps": 2,
            "prompts": {"first": "a red square"},
            "images": str(home / "images.json"),
        },
    }


def written(tree: dict[str, Any], path: Path) -> str:
    path.write_text(yaml.safe_dump(tree))
    return str(path)
