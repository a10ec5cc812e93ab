"""Scripts of exports decode by tiles where the run does: whole clips of HunyuanVideo 1.5 take more than any GPU has."""

import importlib
import json
import sys
from pathlib import Path

import diffusers
import pytest

from ray_distill.export.diffusers import export_student
from ray_distill.models.loading import load_transformer
from ray_distill.types import Sampler
from tests.scripts import run

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
SHAPES = {
    "cogvideox": (4, 1, 8, 8),
    "hunyuan15": (8, 1, 4, 4),
    "ltx": (4, 1, 2, 2),
    "ltx2": (32, 1, 2, 2, 0),
    "wan": (4, 1, 8, 8),
}
"""Latents of one frame of 64 x 64, by family."""


@pytest.mark.parametrize("family", SHAPES)
def test_a_script_decodes_by_tiles_where_its_recipe_says_so(tmp_path, family, monkeypatch):
    base, tiled = tmp_path / "base", []
    importlib.import_module(f"tiny_{family}").main([str(base)])
    network, vae = load_transformer(family, base), json.loads((base / "vae/config.json").read_text())["_class_name"]
    monkeypatch.setattr(getattr(diffusers, vae), "enable_tiling", lambda vae: tiled.append(vae))
    for asked in (False, True):
        clip = {"frames": 1, "height": 64, "width": 64, "fps": 8.0, "max_sequence_length": 24, "vae_tiling": asked}
        sampler = Sampler((1000.0, 500.0), "ode")
        out = export_student(tmp_path / f"{asked}", network, base, sampler, SHAPES[family], card={}, **clip)
        run(out, monkeypatch, "a red ball", tmp_path / "out.safetensors", 0)
        assert len(tiled) == asked
