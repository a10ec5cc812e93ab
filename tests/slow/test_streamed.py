"""Straight through: training begins while its clips are encoded, and is the training on a prepared cache."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from ray_distill.checkpoint import latest
from ray_distill.cli import main
from ray_distill.train import launch
from ray_distill.train.driver import fit
from tests.ray.conftest import ROOT, Home, read_rows
from tests.slow.images import OPTIMIZER, make, tree, written
from tests.unit.data import odd


def test_a_streamed_run_equals_one_on_a_prepared_cache(
    local_ray: None, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = ["train.steps=12", "train.checkpoint_every=12", "train.global_batch=8", "train.micro_batch=4"]
    short += ["train.cpus_per_worker=0.3", "data.encode_batch=4"]
    runs, said = [], list[str]()
    for module in (fit, launch):  # not capsys: Ray would keep the stream that it closes
        monkeypatch.setattr(module, "say", said.append)
    for name, streamed in (("prepared_first", "false"), ("straight_through", "true")):
        own = [f"name={name}", f"data.cache_dir={tmp_path / name}", f"data.stream={streamed}"]
        where = [one for one in home.overrides(name) if one.split("=")[0] in WHERE]
        assert main(["train", str(ROOT / "configs/teacher_quickstart.yaml"), *where, *short, *own, *UNMEASURED]) == 0
        runs.append(home.folder / "output" / name)
    assert any("clips: 60 of 60, 0 skipped" in line for line in said)
    one, other = (latest(run) for run in runs)
    assert one is not None and other is not None and one.step == other.step == 12
    for kind in ("weights", "ema"):
        left, right = (dict(checkpoint.tensors("student", kind)) for checkpoint in (one, other))
        assert all(torch.equal(left[key], right[key]) for key in left.keys() | right.keys())
    assert read_rows(runs[0]) == read_rows(runs[1])


WHERE = {"output_dir", "data.manifest", "track.uri", "model.path"}
UNMEASURED = ["evaluate.enabled=false", "evaluate.metric=null"]


def test_a_clip_that_rots_while_it_is_trained_on_costs_itself(local_ray: None, home: Home, tmp_path: Path) -> None:
    """Its header is right and its frames are not: another clip of its size stands in, and it is named."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(8):
        path = odd.write(folder / f"clip_{number}.mp4", frames=10 + number)
    whole = bytearray(path.read_bytes())
    start = whole.index(b"mdat") + 4
    size = int.from_bytes(whole[start - 8 : start - 4], "big") - 8
    whole[start + size // 2 : start + size] = bytes(size - size // 2)
    path.write_bytes(whole)
    datasets = json.dumps([{"videos": str(folder), "captions": "filename"}])
    where = [one for one in home.overrides("rotten") if one.split("=")[0] in WHERE - {"data.manifest"}]
    own = ["name=rotten", "data.manifest=null", f"data.datasets={datasets}", f"data.cache_dir={tmp_path / 'cache'}"]
    own += ["data.stream=true", "train.steps=8", "train.checkpoint_every=8", "train.global_batch=4"]
    own += ["train.micro_batch=2", "train.cpus_per_worker=0.3"]
    assert main(["train", str(ROOT / "configs/teacher_quickstart.yaml"), *where, *own, *UNMEASURED]) == 0
    (quarantine,) = (tmp_path / "cache").glob("*/quarantine.jsonl")
    (named,) = [json.loads(line) for line in quarantine.read_text().splitlines()]
    assert named["file"] == "clip_7.mp4" and "cannot be decoded" in named["reason"]


def test_pictures_of_a_column_are_streamed_beside_their_clips(local_ray: None, tmp_path: Path) -> None:
    """A streamed run from images equals one on a prepared cache, and another picture is another condition."""
    make(tmp_path, "2.1_i2v")
    rows = [json.loads(line) for line in (tmp_path / "2.1_i2v/clips/manifest.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["image"] = ("red.png", "blue.png")[number % 2]
        shutil.copy(tmp_path / row["image"], tmp_path / "2.1_i2v/clips")
    manifest = tmp_path / "2.1_i2v/clips/pictures.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    part = {"manifest": str(manifest), "image_column": "image"}
    method = {"name": "flow_matching"}
    run = tree(tmp_path, "2.1_i2v", method, {"student": {"optimizer": OPTIMIZER}}, part)
    run["evaluate"] = {"enabled": False}
    runs = {}
    for name in ("prepared", "streamed", "first_frames"):
        own = run | {"name": name, "data": run["data"] | {"cache_dir": str(tmp_path / f"cache_{name}")}}
        own["data"]["stream"] = name == "streamed"
        if name == "first_frames":
            own["data"]["datasets"] = [{"manifest": str(manifest)}]
        assert main(["train", written(own, tmp_path / f"{name}.yaml")]) == 0
        last = latest(tmp_path / "output" / name)
        assert last is not None
        runs[name] = (dict(last.tensors("student", "weights")), read_rows(tmp_path / "output" / name))
    one, other, without = runs["prepared"], runs["streamed"], runs["first_frames"]
    assert all(torch.equal(one[0][key], other[0][key]) for key in one[0].keys() | other[0].keys())
    assert one[1] == other[1] != without[1]
