"""Rollouts longer than what is scored (Self-Forcing++): the last frames of a length that is drawn."""

from collections import Counter
from dataclasses import dataclass, replace

import pytest
import torch

from ray_distill.diffusion.samplers import sample
from ray_distill.methods import METHODS, SelfForcing
from ray_distill.rng import StatelessRng
from ray_distill.types import Prediction
from tests.unit.methods.test_self_forcing import Noted, touched, wans
from tests.unit.toys import Gaussian, batch

LONG = SelfForcing(num_training_frames=6, window=6, sink=3, rollout_frames=20, teacher_guidance=1.0)
"""Rollouts of 6, 9, 12, 15 or 18 frames."""


@dataclass(frozen=True)
class Drawn(StatelessRng):
    """The run's randomness with the number of chunks before the scored ones given."""

    before: int = 0

    def control(self, purpose, high):
        return self.before if purpose.endswith("/window") else super().control(purpose, high)


@pytest.mark.parametrize(
    ("keys", "clip", "starts"),
    [
        ({}, 9, {0, 3, 6, 9, 12}),
        ({"num_training_frames": 9}, 9, {0, 3, 6, 9}),
        ({}, 3, {0, 3, 6, 9, 12, 15}),
        ({"independent_first_frame": True, "sink": 1, "window": 7}, 10, {0, 3, 6, 9, 12, 15}),
        ({"rollout_frames": None}, 9, {0}),
    ],
)
def test_windows_end_with_a_chunk_and_come_alike(keys, clip, starts):
    method = replace(LONG, **keys)
    counts = Counter(method.first_scored(clip, StatelessRng(0, step), "student") for step in range(600))
    assert counts.keys() == starts
    assert min(counts.values()) > 0.7 * 600 / len(starts)


@pytest.mark.parametrize("before", [0, 1, 3])
def test_the_scored_frames_are_the_last_of_what_the_student_samples(before):
    """Its sampler makes a clip of that length from the same noise; the cache has let chunks go by then."""
    _, held, data = wans(frames=9)
    method, end = replace(LONG, last_step_only=True), 6 + 3 * before
    rng = Drawn(0, before=before)
    x = method.roll_out(held, data, rng, "student", True)

    def noise(i):
        return rng.noise(f"student/noise{i}", data.sample_ids, (4, end, 4, 4))

    whole = sample(held["student"], method.sampler(), noise(-1), data.cond, noise=noise)
    torch.testing.assert_close(x.detach(), whole[:, :, -6:], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("first", "window"), [(False, 6), (True, 7)])
@pytest.mark.parametrize("before", [0, 1, 3])
def test_no_gradient_before_the_scored_frames(before, first, window):
    networks = {"student": Noted()}
    method = replace(LONG, independent_first_frame=first, sink=window - 6, window=window, num_training_frames=window)
    clip = window
    x = method.roll_out(networks, batch(shape=(1, clip, 2, 2)), Drawn(0, before=before), "student", True)
    assert x.shape[2] == window
    descends = [call["past"] for call in networks["student"].calls if call["grad"]]
    chunks = [0, *range(1, window, 3)] if first else [0, 3]
    # A single first frame of a later window is the end of a chunk that has no gradient.
    assert descends == [3 * before + chunk for chunk in chunks if not (first and before and chunk == 0)]


class Says(torch.nn.Module):
    """A student whose x_0 is its weight, frame by frame of the rollout."""

    def __init__(self, shape):
        super().__init__()
        self.x_0 = torch.nn.Parameter(torch.zeros(shape))

    def forward(self, x_t, sigma, cond, *, cache=None, remember=False):
        x_0 = self.x_0[:, :, cache.frames : cache.frames + x_t.shape[2]]
        if remember:
            cache.frames += x_t.shape[2]
        return Prediction((x_t - x_0) / sigma.reshape(-1, 1, 1, 1, 1))


@pytest.mark.parametrize("before", [0, 2])
def test_the_gradient_between_two_gaussians_over_a_window(before):
    """Oracle 2: g / N_m, -1.6 / 1000 over the frames that count; a later window's first latent frame is none of them,
    in the normaliser neither."""
    student = Says((4, 1, 12, 2, 2))
    networks = {"student": student, "fake_score": Gaussian(0.0), "teacher": Gaussian(2.0)}
    scores = {"score_min": 0.5 - 1e-7, "score_max": 0.5, "min_norm": 1000.0}
    method = replace(LONG, timesteps=(1000.0,), **scores)
    method.student_loss(networks, batch(shape=(1, 9, 2, 2)), Drawn(0, before=before), {}).loss.backward()
    counted = slice(7, 12) if before else slice(0, 6)
    elements = student.x_0[:, :, counted].numel()
    expected = torch.zeros_like(student.x_0)
    expected[:, :, counted] = -1.6 / 1000 / elements
    torch.testing.assert_close(student.x_0.grad, expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("before", [0, 2])
def test_the_fake_score_learns_of_the_frames_that_count(before):
    """A wrong answer on the first scored frame costs nothing in a later window, and something in the first."""

    class Wrong(Gaussian):
        def __call__(self, x_t, sigma, cond):
            v = super().__call__(x_t, sigma, cond).velocity.clone()
            v[:, :, 0] += 1.0
            return Prediction(v)

    data, rng = batch(shape=(1, 6, 2, 2)), Drawn(0, before=before)
    right, wrong = (
        LONG.fake_score_loss({"student": Noted(), "fake_score": fake}, data, rng, {}).loss
        for fake in (Gaussian(0.0), Wrong(0.0))
    )
    assert torch.equal(right, wrong) == (before > 0)


def test_a_rollout_that_is_used_again_keeps_its_window():
    _, held, data = wans(frames=6)
    method, rng = replace(LONG, reuse_rollout=True), StatelessRng(0, 4)
    assert method.first_scored(6, rng, "student") != method.first_scored(6, rng, "fake_score")
    seen = []
    fake = held["fake_score"]
    shared = {}
    method.student_loss(held, data, rng, shared)
    assert method.fake_samples(held, data, rng, shared)[1] == "student"
    loss = method.fake_score_loss(held | {"fake_score": lambda *a: seen.append(a) or fake(*a)}, data, rng, shared).loss
    assert loss.isfinite() and seen[0][0].shape == (2, 4, 6, 4, 4)


@pytest.mark.parametrize(("loss", "role"), [("student_loss", "student"), ("fake_score_loss", "fake_score")])
def test_an_update_reaches_its_role_alone_and_follows_the_seed(loss, role):
    networks, held, data = wans()
    method = replace(LONG, context_noise=50.0)
    one, again, other = (
        getattr(method, loss)(held, data, rng, {}).loss
        for rng in (Drawn(0, before=2), Drawn(0, before=2), Drawn(0, before=1))
    )
    assert torch.equal(one, again) and not torch.equal(one, other)
    one.backward()
    own = touched(networks.pop(role))
    assert sum(own) > 0.9 * len(own)
    assert all(p.grad is None for network in networks.values() for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        ("self_forcing", {"window": None, "sink": 0}, "rollout_frames = 20: .* needs a window"),
        ("self_forcing", {"rollout_frames": 8}, "rollout_frames = 8: .* num_training_frames = 6 .* use 9 or more"),
        ("self_forcing_gan", {}, "rollout_frames = 20: the discriminator .* use self_forcing"),
    ],
)
def test_bad_keys_are_named(name, bad, message):
    keys = {"num_training_frames": 6, "window": 6, "sink": 3, "rollout_frames": 20} | bad
    with pytest.raises(ValueError, match=message):
        METHODS[name](**keys)


def test_the_head_of_a_run_says_how_far_rollouts_go():
    assert LONG.describe().endswith("(num_training_frames = 6), the last of up to 18 that are rolled out")
    assert LONG.beyond_clips and not SelfForcing().beyond_clips
