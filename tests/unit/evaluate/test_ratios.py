"""The report's ratios name a student that stands still, one that is washed out, and one that repeats itself."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from ray_distill.config.measures import MEASURE_OF, ratio_name
from ray_distill.evaluate.compare import against_teacher, ratios
from ray_distill.evaluate.metrics import measures
from ray_distill.evaluate.samples import Samples

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
import two_digits

PROMPTS = ["a", "a", "b", "b"]
CHANGE = ("flicker", "jitter")
MOVING = ("motion", "motion_top", *CHANGE)
COLOUR = ("saturation", "chroma")
RATIOS = (*MOVING, *COLOUR, "contrast", "sharpness", "diversity")
SPOILT = {"flickering": ("motion", "saturation")}  # noise looks like motion and colour


def made(videos, features):
    return Samples(features, 1.0, None, 0.01, videos[:1], measures(videos, 8))


@pytest.fixture(scope="module")
def teacher():
    images = load_digits().images
    videos = np.stack([two_digits.draw(clip, images, 9) for clip in two_digits.plans(4, seed=0)])
    return videos, torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def test_a_teacher_against_itself_is_one(teacher):
    found = ratios([made(*teacher)], [made(*teacher)], PROMPTS)
    assert set(found) == {*map(ratio_name, RATIOS), "moving_difference", "clipped_difference"}
    for name, row in found.items():
        assert set(row.values()) == {0.0 if name.endswith("_difference") else 1.0}


def test_each_fault_is_named_by_its_own_ratios(teacher):
    videos, features = teacher
    noise = np.random.default_rng(0).integers(-12, 13, videos.shape)
    faults = {  # the student's videos and features, what falls, what rises
        "static": (np.repeat(videos[:, :1], 9, axis=1), features, MOVING, ()),
        "washed out": ((0.5 * videos + 0.5 * videos.mean(-1, keepdims=True)).astype(np.uint8), features, COLOUR, ()),
        "one video": (videos, features[[0, 0, 2, 2]], ("diversity",), ()),
        "flickering": ((videos.astype(int) + noise).clip(0, 255).astype(np.uint8), features, (), CHANGE),
    }
    for fault, (shown, seen, low, high) in faults.items():
        rows = ratios([made(shown, seen)], [made(*teacher)], PROMPTS)
        found = {MEASURE_OF[name]: row["value"] for name, row in rows.items()}
        assert all(found[name] < 0.7 for name in low), (fault, found)
        assert all(found[name] > 1.3 for name in high), (fault, found)
        for name in {"motion", "saturation", "diversity", "contrast"} - {*low, *high, *SPOILT.get(fault, ())}:
            assert 0.9 < found[name] < 1.1, (fault, name, found)


def test_a_teacher_that_stands_still_tells_no_ratio_of_motion(teacher):
    still = made(np.repeat(teacher[0][:, :1], 9, axis=1), teacher[1])
    assert {*map(ratio_name, RATIOS)} - set(ratios([made(*teacher)], [still], PROMPTS)) == {*map(ratio_name, MOVING)}


def test_two_seeds_of_the_teacher_say_what_chance_does(teacher):
    videos, features = teacher
    seeds = [made(videos, features), made(videos[::-1].copy(), features)]
    found = against_teacher(seeds[:1], seeds, PROMPTS)
    assert found["teacher_seeds"] == ratios(seeds[:1], seeds[1:], PROMPTS) != found["ratios"]
    assert found["ratios"] == ratios(seeds[:1], seeds, PROMPTS)
    assert set(against_teacher(seeds[:1], seeds[:1], PROMPTS)) == {"ratios"}


def test_measures_are_kept_with_what_was_made(teacher, tmp_path):
    whole = made(*teacher)
    whole.save(tmp_path / "made.safetensors")
    again = Samples.load(tmp_path / "made.safetensors")
    assert set(again.measures) == set(whole.measures)
    assert all(torch.equal(again.measures[name], values) for name, values in whole.measures.items())
