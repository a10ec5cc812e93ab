"""Rollouts that go on from step to step (LongLive): windows of old and new frames, the new ones learned."""

from dataclasses import dataclass, field, replace

import pytest
import torch

from ray_distill.diffusion.samplers import sample
from ray_distill.methods import METHODS, SelfForcing
from ray_distill.rng import StatelessRng
from ray_distill.types import Rollout
from tests.unit.methods.test_long_rollouts import Says
from tests.unit.methods.test_self_forcing import Noted, touched, wans
from tests.unit.toys import Gaussian, batch

KEYS = {"num_training_frames": 9, "window": 6, "sink": 3, "rollout_frames": 18, "rollout_overlap": 3}
STREAMED = SelfForcing(**KEYS, teacher_guidance=1.0)
"""Windows of the frames 0 to 9, 6 to 15 (6 new) and 9 to 18 (3 new)."""


def rolled(method, networks, data, windows, rng=StatelessRng, purpose="student", grad=False):
    """(x of each of the next ``windows`` of a rollout, given frames, whether one is under way after it)."""
    rollout, found = data.rollout or Rollout(), []
    for step in range(windows):
        joined = method.joined(replace(data, rollout=rollout))
        x = method.roll_out(networks, joined, rng(0, step), purpose, grad)
        found.append((x, rollout.prefix, rollout.x is not None))
    return found


def test_windows_of_a_long_video():
    """21 frames, then 18 new ones behind 3 old: 14 windows for 240, the last of 3 new ones behind 18."""
    method = SelfForcing(window=12, sink=3, rollout_frames=240, rollout_overlap=3)
    networks, data = {"student": Noted()}, batch(shape=(1, 21, 1, 1))
    windows = rolled(method, networks, data, 15)
    assert [given for _, given, _ in windows] == [0, *[3] * 12, 18, 0]
    assert [on for *_, on in windows] == [*[True] * 13, False, True]
    assert all(x.shape[2] == 21 for x, *_ in windows) and method.windows(21) == 14
    assert "of 240, which go on from step to step in 14 windows, and go on at a save" in method.describe()


@pytest.mark.parametrize(
    ("keys", "clip", "given"),
    [
        ({}, 9, [0, 3, 6, 0]),
        ({"rollout_overlap": 5}, 9, [0, 6, 6, 6, 0]),
        ({"rollout_overlap": 6}, 9, [0, 6, 6, 6, 0]),
        ({"independent_first_frame": True, "sink": 1, "window": 7, "num_training_frames": 10}, 10, [0, 4, 0]),
        ({}, 3, [0, 1, 1, 1, 1, 1, 0]),
    ],
)
def test_whole_chunks_are_new_and_the_first_frame_of_a_later_window_never_counts(keys, clip, given):
    """A short clip's windows are new in whole; the scores' single picture at their beginning is still none."""
    method = replace(STREAMED, **keys)
    windows = rolled(method, {"student": Noted()}, batch(shape=(1, clip, 1, 1)), len(given))
    assert [g for _, g, _ in windows] == given and not windows[-2][2] and windows[-1][2]


@dataclass(frozen=True)
class Kept(StatelessRng):
    """The run's randomness, which keeps what it drew by step."""

    drawn: dict = field(default_factory=dict)

    def noise(self, purpose, sample_ids, shape):
        return self.drawn.setdefault((purpose, self.step), super().noise(purpose, sample_ids, shape))


@pytest.mark.parametrize("context", [0.0, 50.0])
def test_windows_are_those_of_one_clip_that_the_student_samples(context):
    """With its cache, the weights held still, windows laid end to end are a clip from the same noise."""
    _, held, data = wans(frames=9)
    method = replace(STREAMED, last_step_only=True, context_noise=context)
    draws = {}
    windows = rolled(method, held, data, 3, lambda seed, step: Kept(seed, step, drawn=draws))

    def noise(i):
        first, then, last = (draws.get((f"student/noise{i}", step)) for step in range(3))
        if first is None:
            return None
        if i == len(method.timesteps):  # of the context: a chunk's is drawn where the next one follows it
            return torch.cat([first[:, :, :6], then[:, :, :6], last], dim=2)
        return torch.cat([first, then[:, :, 3:], last[:, :, 3:]], dim=2)

    whole = sample(held["student"], method.sampler(), noise(-1), data.cond, noise=noise)
    assert whole.shape[2] == 18
    for (x, *_), start in zip(windows, (0, 6, 9), strict=True):
        torch.testing.assert_close(x, whole[:, :, start : start + 9], atol=1e-5, rtol=0)
    other = method.roll_out(held, data, StatelessRng(0, 0), "student", False)
    torch.testing.assert_close(other, windows[0][0], atol=0, rtol=0)  # a first window is a rollout as ever


@pytest.mark.parametrize(("window", "counted"), [(0, slice(0, 9)), (1, slice(9, 15)), (2, slice(15, 18))])
def test_the_gradient_between_two_gaussians_is_over_the_new_frames(window, counted):
    """Oracle 2: g / N_m, -1.6 / 1000 over the new frames, which alone are in the normaliser."""
    student = Says((4, 1, 18, 2, 2))
    networks = {"student": student, "fake_score": Gaussian(0.0), "teacher": Gaussian(2.0)}
    scores = {"score_min": 0.5 - 1e-7, "score_max": 0.5, "min_norm": 1000.0}
    method, data = replace(STREAMED, timesteps=(1000.0,), **scores), batch(shape=(1, 9, 2, 2), rollout=Rollout())
    for step in range(window):
        method.fake_score_loss(networks, data, StatelessRng(0, step), {})
    method.student_loss(networks, data, StatelessRng(0, window), {}).loss.backward()
    expected = torch.zeros_like(student.x_0)
    expected[:, :, counted] = -1.6 / 1000 / student.x_0[:, :, counted].numel()
    torch.testing.assert_close(student.x_0.grad, expected, rtol=1e-3, atol=0)


def test_a_rollout_keeps_the_prompt_that_it_began_with():
    """Its clips' scores see that prompt, too, until it is over; then the batch of that step begins the next."""
    prompts = []

    class Heard(Noted):
        def __call__(self, x_t, sigma, cond, **causal):
            prompts.append(float(cond["text"].mean()))
            return super().__call__(x_t, sigma, cond, **causal) if causal else Gaussian()(x_t, sigma, cond)

    networks, rollout, heard = dict.fromkeys(("student", "fake_score", "teacher"), Heard()), Rollout(), []
    for step in range(5):
        text = torch.full((4, 1, 1), float(step))
        data = batch(shape=(1, 9, 2, 2), cond={"text": text}, uncond={"text": text}, rollout=rollout)
        prompts.clear()
        STREAMED.student_loss(networks, data, StatelessRng(0, step), {})
        heard.append(set(prompts))
    assert heard == [{0.0}, {0.0}, {0.0}, {3.0}, {3.0}]


def test_a_rollout_that_is_used_again_is_scored_in_its_window():
    _, held, data = wans(frames=9)
    method, rollout = replace(STREAMED, reuse_rollout=True), Rollout()
    for step, given in enumerate((0, 3, 6)):
        shared, rng = {}, StatelessRng(0, step)
        method.student_loss(held, replace(data, rollout=rollout), rng, shared)
        frames, seen = rollout.frames, []

        def hear(x_s, sigma, cond, seen=seen):
            seen.append(cond["text"])
            return held["fake_score"](x_s, sigma, cond)

        loss = method.fake_score_loss(
            held | {"fake_score": hear},
            replace(data, rollout=rollout, cond={"text": 7 * data.cond["text"]}),
            rng,
            shared,
        ).loss
        assert loss.isfinite() and rollout.frames == frames and rollout.prefix == given
        assert torch.equal(seen[0], data.cond["text"])


@pytest.mark.parametrize(("loss", "role"), [("student_loss", "student"), ("fake_score_loss", "fake_score")])
def test_an_update_of_a_later_window_reaches_its_role_alone_and_follows_the_seed(loss, role):
    networks, held, data = wans(frames=9)
    method, losses = replace(STREAMED, context_noise=50.0), []
    for seed in (0, 0, 1):
        rollout = Rollout()
        method.fake_score_loss(held, replace(data, rollout=rollout), StatelessRng(0, 0), {})
        losses.append(getattr(method, loss)(held, replace(data, rollout=rollout), StatelessRng(seed, 1), {}).loss)
        assert not rollout.x.requires_grad and rollout.frames == 15
    one, again, other = losses
    assert torch.equal(one, again) and not torch.equal(one, other)
    one.backward()
    own = touched(networks.pop(role))
    assert sum(own) > 0.9 * len(own)
    assert all(p.grad is None for network in networks.values() for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        ("self_forcing", {"rollout_frames": None}, "rollout_overlap = 3: .* needs an end; give rollout_frames"),
        ("self_forcing", {"rollout_overlap": 7}, "rollout_overlap = 7: of its 9 .* use 1 to 6"),
        ("self_forcing", {"rollout_overlap": 0}, "rollout_overlap = 0: .* use 1 to 6"),
        ("self_forcing", {"num_training_frames": 3}, "rollout_overlap = 3: a window is one chunk"),
        (
            "self_forcing",
            {"rollout_overlap": None, "rollout_at_save": "restarted"},
            "rollout_at_save = restarted: .* give rollout_overlap",
        ),
        ("self_forcing_gan", {}, "rollout_frames = 18: the discriminator .* use self_forcing"),
    ],
)
def test_bad_keys_are_named(name, bad, message):
    with pytest.raises(ValueError, match=message):
        METHODS[name](**KEYS | bad)


def test_a_window_of_one_frame_is_refused():
    with pytest.raises(ValueError, match="num_training_frames = 1: the first latent frame of a later window"):
        SelfForcing(num_frame_per_block=1, num_training_frames=1, window=2, rollout_frames=4)
