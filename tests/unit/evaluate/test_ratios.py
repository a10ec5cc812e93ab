"""The report's ratios name a student that stands still, one that is washed out, and one that repeats itself."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from ray_distill.evaluate.compare import ratios
from ray_distill.evaluate.metrics import measures
from ray_distill.evaluate.samples import Samples

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
import two_digits

PROMPTS = ["a", "a", "b", "b"]


def made(videos, features):
    return Samples(features, 1.0, None, 0.01, videos[:1], measures(videos, 8))


@pytest.fixture(scope="module")
def teacher():
    images = load_digits().images
    videos = np.stack([two_digits.draw(clip, images, 9) for clip in two_digits.plans(4, seed=0)])
    return videos, torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def test_a_teacher_against_itself_is_one(teacher):
    found = ratios([made(*teacher)], [made(*teacher)], PROMPTS)
    assert set(found) == {"motion", "saturation", "chroma", "diversity"}
    assert all(row == {"value": 1.0, "low": 1.0, "high": 1.0} for row in found.values())


def test_each_fault_is_named_by_its_own_ratio(teacher):
    videos, features = teacher
    still = np.repeat(videos[:, :1], 9, axis=1)
    grey = (0.5 * videos + 0.5 * videos.mean(-1, keepdims=True)).astype(np.uint8)
    same = features[[0, 0, 2, 2]]
    expected = {
        "motion": (still, features),
        "saturation": (grey, features),
        "diversity": (videos, same),
    }
    for name, student in expected.items():
        found = {key: row["value"] for key, row in ratios([made(*student)], [made(*teacher)], PROMPTS).items()}
        assert found[name] < 0.7, name
        others = {key: value for key, value in found.items() if key not in (name, "chroma")}
        assert all(0.9 < value < 1.1 for value in others.values()), (name, found)


def test_a_teacher_that_stands_still_tells_no_ratio_of_motion(teacher):
    still = made(np.repeat(teacher[0][:, :1], 9, axis=1), teacher[1])
    assert set(ratios([made(*teacher)], [still], PROMPTS)) == {"saturation", "chroma", "diversity"}


def test_measures_are_kept_with_what_was_made(teacher, tmp_path):
    whole = made(*teacher)
    whole.save(tmp_path / "made.safetensors")
    again = Samples.load(tmp_path / "made.safetensors")
    assert set(again.measures) == set(whole.measures)
    assert all(torch.equal(again.measures[name], values) for name, values in whole.measures.items())
