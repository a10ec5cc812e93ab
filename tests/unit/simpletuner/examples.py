"""A folder in which SimpleTuner's examples find the files that they name, and functions that load them from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray_distill.config import Loaded
from ray_distill.importers import load_run

SEEDS = Path(__file__).parents[2] / "data" / "simpletuner"
MODEL = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
ADDRESS = "https://hooks.example/s3cret"


def seed(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((SEEDS / name).read_text())
    return content


def home(folder: Path) -> Path:
    """Write the files that both examples name below ``folder``; their dataset has a folder of clips."""
    (folder / MODEL / "transformer").mkdir(parents=True)
    config = folder / "config" / "wan"
    config.mkdir(parents=True)
    dataset = seed("dmd_dataset.json") | {"id": "clips", "instance_data_dir": "clips"}
    (folder / "clips").mkdir()
    (config / "multidatabackend.json").write_text(json.dumps([dataset]))
    (config / "validation_prompts_dmd.json").write_text(json.dumps({"kite": "a kite", "fox": "a fox"}))
    (config / "webhook.json").write_text(json.dumps({"webhook_type": "raw", "callback_url": ADDRESS}))
    return folder


def load(folder: Path, given: dict[str, Any], *overrides: str) -> Loaded:
    path = folder / "config.json"
    path.write_text(json.dumps(given))
    return load_run(path, overrides, environment={})
