"""A sample that is not finite is an error, and no black video."""

import numpy as np
import pytest
import torch

from ray_distill.evaluate.latents import NotFinite, frames_of
from ray_distill.evaluate.metrics import frechet_distance
from ray_distill.evaluate.samples import Candidate
from ray_distill.types import Sampler


class Codec:
    """Pixels that are the latents' first three channels, with what is beyond 4 infinite."""

    def decode(self, latents):
        return torch.where(latents.abs() > 4, torch.inf, latents)


LATENTS = torch.zeros(3, 3, 1, 2, 2)


def test_finite_samples_are_frames():
    frames = frames_of(Codec(), LATENTS, "student")
    assert frames.shape == (3, 1, 2, 2, 3) and np.all(frames == 128)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            float("nan"),
            r"1 of 3 samples are not finite \(the first is number 51\): latents of student of step_9, seed 1",
        ),
        (float("-inf"), "latents of student"),
        (5.0, "decoded pixels of student"),
    ],
)
def test_what_is_not_is_named(value, message):
    latents = LATENTS.clone()
    latents[1, 0, 0, 1, 1] = value
    with pytest.raises(NotFinite, match=message):
        frames_of(Codec(), latents, "student of step_9, seed 1", first=50)


def test_a_candidate_says_who_it_is(tmp_path):
    sampler = Sampler((1000.0,), "ode")
    assert str(Candidate("teacher", sampler)) == "teacher before training"
    assert str(Candidate("student", sampler, tmp_path / "step_00000009")) == "student of step_00000009"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_distance_comes_of_such_features(value):
    features = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    broken = features.clone()
    broken[0, 0] = value
    for pair in ((features, broken), (broken, features)):
        with pytest.raises(ValueError, match="NaN or infinities"):
            frechet_distance(*pair)
