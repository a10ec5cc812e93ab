"""Features of the data's own clips: those of the decoded pixels, without clips that cannot be decoded."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ray_distill.data.read.video import write_clip
from ray_distill.data.source import Source
from ray_distill.evaluate import real
from ray_distill.evaluate.metrics import Metric
from tests.unit.toys import run_config

HEADS = {"digit": ["zero", "one"]}


@pytest.fixture
def clips(tmp_path):
    """(source, rows of three clips and of a file that is none, the clips' pixels as written)"""
    rng = np.random.default_rng(0)
    rows, pixels = [], []
    for number in range(4):
        path = tmp_path / "clips" / f"{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        if number == 2:
            path.write_bytes(b"no video")
        else:
            pixels.append(np.kron(rng.integers(0, 255, (9, 3, 3, 1)), np.ones((1, 8, 8, 3))).astype(np.uint8))
            write_clip(path, pixels[-1], 8)
        path.with_suffix(".txt").write_text(f"clip {number}")
        rows.append({"dataset": 0, "video": str(path), "path": str(path), "number": 0, "content": None})
    rows = [row | {"height": 24, "width": 24} for row in rows]
    source = Source(datasets=[{"videos": tmp_path / "clips"}], frames=9, height=24, width=24, fps=8, cache_dir=tmp_path)
    return source, rows, np.stack(pixels)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    Metric(HEADS, (9, 24, 24)).save(tmp_path / "metric")
    return tmp_path / "metric"


def test_features_are_those_of_the_clips_that_can_be_decoded(clips, folder):
    source, rows, pixels = clips
    found, wanted = real.clip_features(source, folder, rows), Metric.load(folder).features(pixels).numpy()
    assert found.shape == (3, 64) and found.dtype == np.float32
    assert np.abs(found - wanted).max() < 0.2 * np.abs(wanted - wanted.mean(0)).max()  # mp4 loses a little
    assert real.clip_features(source, folder, rows[2:3]).shape == (0, 64)


def test_parts_come_in_order_and_are_kept(clips, folder, tmp_path, monkeypatch):
    """Ray left out: parts of two clips each, and a second call that decodes nothing."""
    source, rows, _ = clips
    remote = lambda **options: lambda task: SimpleNamespace(remote=task)  # noqa: E731
    monkeypatch.setattr(real, "ray", SimpleNamespace(remote=remote))
    monkeypatch.setattr(real, "wait_for", lambda tasks, timeout_s, shown, each: tasks)
    monkeypatch.setattr(real, "clip_rows", lambda source, cache: rows)
    monkeypatch.setattr(real, "TOGETHER", 2)
    config = run_config(tmp_path, evaluate={"metric": str(folder)})
    config = config.model_copy(update={"data": source})
    found = real.real_features(config, SimpleNamespace(folder=tmp_path))
    np.testing.assert_allclose(found, real.clip_features(source, folder, rows), atol=1e-6)
    monkeypatch.setattr(real, "clip_rows", None)
    assert torch.equal(real.real_features(config, SimpleNamespace(folder=tmp_path)), found)
