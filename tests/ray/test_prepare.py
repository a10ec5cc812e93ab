"""Bad input costs itself: broken clips are skipped, counted and named; what cannot work says so and why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from ray_distill.cli import main
from ray_distill.data.store.cache import Cache
from ray_distill.models.codec import load_codec
from ray_distill.models.spec import Field
from tests.ray.conftest import ROOT, Home
from tests.unit.data.caches import conditions

CONFIG = ROOT / "configs/quickstart.yaml"


def write_manifest(folder: Path, lines: list[dict]) -> Path:
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return manifest


def folder_in(out: str) -> Path:
    """The cache that the last lines of ``prepare`` name."""
    return next(Path(line.split()[1]) for line in out.splitlines() if line.startswith("cache "))


def test_bad_clips_are_skipped_counted_and_named(
    local_ray: None, digits: Path, home: Home, tmp_path: Path, capsys
) -> None:
    good = [json.loads(line) for line in digits.read_text().splitlines()][:5]
    for row in good:
        shutil.copy(digits.parent / row["video"], tmp_path / Path(row["video"]).name)
        row["video"] = Path(row["video"]).name
    (tmp_path / "torn.mp4").write_bytes((tmp_path / good[0]["video"]).read_bytes()[:400])
    (tmp_path / "empty.mp4").write_bytes(b"")
    outside = {"video": "../elsewhere.mp4", "caption": "outside"}
    bad = [{"video": name, "caption": "a torn clip"} for name in ("torn.mp4", "empty.mp4", "absent.mp4")]
    manifest = write_manifest(tmp_path, [*good, *bad, {"video": None, "caption": "no video"}, outside])
    arguments = home.overrides("bad", f"data.manifest={manifest}")

    assert main(["prepare", str(CONFIG), *arguments]) == 0
    out = capsys.readouterr().out
    folder = folder_in(out)
    card = Cache(folder).card
    assert (card["clips"], card["skipped"]) == (5, 5) and "5 kept, 5 left out" in out and "{" not in out
    assert f"{folder}/contact_sheet.png" in out
    (again,) = (line for line in out.splitlines() if line.startswith("  ray-distill train "))
    assert again.split()[2] == str(CONFIG) and f"data.manifest={manifest}" in again
    assert card["cropped"] == {"mean": 0.0, "most": 0.0} and "0% of a picture on average" in out
    named = (folder / "quarantine.jsonl").read_text()
    for name in ("torn.mp4", "empty.mp4", "absent.mp4", "elsewhere.mp4", "both a video and a caption"):
        assert name in named

    client = MlflowClient(home.uri)
    run = client.get_run(json.loads((home.folder / "output/bad/run.json").read_text())["run_id"])
    (logged,) = run.inputs.dataset_inputs
    counts = json.loads(logged.dataset.profile)
    assert run.info.status == "FINISHED" and (counts["clips"], counts["skipped"]) == (5, 5)
    assert [file.path for file in client.list_artifacts(run.info.run_id, "data")] == ["data/contact_sheet.png"]

    cache = Cache(folder)
    assert cache.latent_shape == (16, 3, 6, 6) and len(cache.index) == 5
    assert cache.captions() == sorted({row["caption"] for row in good})
    rows = cache.rows(range(5), ["video", "latents", "shape"])
    assert {row["video"] for row in rows} == {row["video"] for row in good}
    latents = cache.latents(rows)
    pixels = load_codec(ROOT / "examples/digits_teacher/vae").decode(torch.from_numpy(latents))
    assert np.isfinite(latents).all() and pixels.shape == (5, 3, 9, 24, 24)
    fields = {"text": Field((8, 64), padding="zeros")}
    assert conditions(cache, range(5), fields)["text"].shape == (5, 8, 64)
    assert len(cache.prompt("negative", fields)["text"]) == 4 * 64  # </s> alone

    assert main(["prepare", str(CONFIG), *arguments]) == 0  # again: the same cache, not made anew
    assert folder_in(capsys.readouterr().out) == folder


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.manifest=/nowhere/manifest.jsonl", "no such file"),
        ("model.path=/nowhere/model", "no transformer/config.json there"),
    ],
)
def test_what_is_missing_is_named_before_anything_starts(home: Home, override: str, message: str, capsys) -> None:
    assert main(["train", str(CONFIG), *home.overrides("missing", override)]) == 2
    assert message in capsys.readouterr().err


def test_a_manifest_without_one_good_clip_is_refused(local_ray: None, home: Home, tmp_path: Path, capsys) -> None:
    manifest = write_manifest(tmp_path, [{"video": "absent.mp4", "caption": "nothing"}])
    assert main(["prepare", str(CONFIG), *home.overrides("none", f"data.manifest={manifest}")]) == 2
    assert "none of its 1 clips can be used" in capsys.readouterr().err
