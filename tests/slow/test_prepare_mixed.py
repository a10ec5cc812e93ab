"""A folder, prompts and the teacher's own clips become one cache of several shapes, and train."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ray_distill.cli import main
from ray_distill.data.store.cache import Cache
from tests.ray.conftest import ROOT, Home
from tests.ray.test_prepare import folder_in
from tests.unit.data import odd

CONFIG = ROOT / "configs/quickstart.yaml"


def test_folders_prompts_and_the_teachers_clips_in_buckets(
    local_ray: None, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of two shapes with a file that is none, prompts, and clips that the teacher makes: one cache."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(5):
        odd.write(folder / f"clip_{number}.mp4", size=(48, 96) if number % 2 else (96, 64), frames=10 + number)
    (folder / "no_video.mp4").write_text("none")
    for name, lines in (("prompts.txt", "a zero\n"), ("more.txt", "a one\na two\n")):
        (tmp_path / name).write_text(lines)
    datasets = [
        {"videos": str(folder), "captions": "filename", "repeats": 1},
        {"prompts": str(tmp_path / "prompts.txt")},
        {"prompts": str(tmp_path / "more.txt"), "teacher": {"steps": 2, "clips_per_prompt": 2}},
    ]
    own = [f"data.datasets={json.dumps(datasets)}", "data.manifest=null", "evaluate.metric=null", "evaluate.goals={}"]
    own += [
        "data.resolution_type=pixel_area",
        "data.resolution=32",
        "data.encoders=2",
        f"data.cache_dir={tmp_path}/cache",
    ]
    arguments = home.overrides("mixed", *own)
    assert main(["prepare", str(CONFIG), *arguments]) == 0
    told = capsys.readouterr()
    cache = Cache(folder_in(told.out))
    card = cache.card
    # 32 x 32 pixels at 3:2 and 1:2 in multiples of 8; samples are 24 x 24.
    assert card["buckets"] == {"16x3x10x6": 3, "16x3x6x12": 2, "16x3x6x6": 5}
    assert [part["passes"] for part in card["datasets"]] == [2, 1, 1] and card["skipped"] == 1
    assert "clips: 5 of 5, 0 skipped" in told.err and "clips by the teacher: 4 of 4" in told.err
    assert (cache.folder / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    taught = [
        number for number, caption in enumerate(cache.index["caption"].to_pylist()) if caption in ("a one", "a two")
    ]
    latents = cache.latents(cache.rows(taught, ["latents", "shape"]))
    assert latents.shape == (4, 16, 3, 6, 6) and np.isfinite(latents).all()
    assert len({latent.tobytes() for latent in latents}) == 4

    odd.write(folder / "clip_5.mp4", size=(48, 96), frames=15)
    (tmp_path / "more.txt").write_text("a one\na two\na three\n")
    assert main(["prepare", str(CONFIG), *arguments]) == 0
    told = capsys.readouterr()
    assert "clips: 1 of 1" in told.err and "captions: 2 of 2" in told.err and "by the teacher: 2 of 2" in told.err
    assert Cache(folder_in(told.out)).card["buckets"] == {"16x3x10x6": 3, "16x3x6x12": 3, "16x3x6x6": 7}

    # Data-free training goes through all shapes.
    assert main(["train", str(CONFIG), *arguments, "train.steps=6", "train.checkpoint_every=6"]) == 0
