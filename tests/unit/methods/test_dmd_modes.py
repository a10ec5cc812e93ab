"""What the keys of DMD change: where the steps come from, who is updated when, at which levels, and what is logged."""

from dataclasses import dataclass, field

import pytest
import torch
from scipy.stats import chisquare

from ray_distill.methods import DMD
from ray_distill.rng import StatelessRng
from ray_distill.types import Prediction
from tests.unit.toys import Gaussian, batch, column

RNG = StatelessRng(0)
TINY = (1, 1, 2, 2)


class ExitAt(StatelessRng):
    """The run's randomness with the exit step given."""

    def control(self, purpose, high):
        return self.step


@dataclass
class Seen:
    """A denoiser that keeps what it was shown."""

    denoiser: object
    x: list = field(default_factory=list)
    sigma: list = field(default_factory=list)
    text: list = field(default_factory=list)

    def __call__(self, x_t, sigma, cond):
        self.x.append(x_t.detach())
        self.sigma.append(sigma)
        self.text.append(cond["text"])
        return self.denoiser(x_t, sigma, cond)


def networks(**given):
    return {"student": Gaussian(1.0), "fake_score": Gaussian(0.0), "teacher": Gaussian(2.0)} | given


# Where the steps before the exit come from


@pytest.mark.parametrize("exit_step", [0, 1, 2])
def test_without_backward_simulation_the_exit_step_sees_noised_data(exit_step):
    method, student = DMD(backward_simulation=False), Seen(Gaussian(1.0))
    x_0 = torch.full((4, *TINY), 5.0)
    method.student_loss(networks(student=student), batch(shape=TINY, x_0=x_0), ExitAt(0, exit_step), {})
    sigma = (1.0, 0.757, 0.522)[exit_step]
    (x_t,) = student.x  # one forward, and no other
    assert student.sigma[0].tolist() == pytest.approx([sigma] * 4)
    noise = (x_t - (1 - sigma) * 5.0) / sigma
    assert torch.allclose(noise, ExitAt(0, exit_step).noise("student/noise-1", torch.arange(4), TINY), atol=1e-5)
    assert method.uses_latents and not DMD().uses_latents


def test_without_backward_simulation_the_first_step_sees_noise_even_below_1000():
    student = Seen(Gaussian(1.0))
    method = DMD((900.0, 500.0), backward_simulation=False)
    data = batch(shape=TINY, x_0=torch.full((4, *TINY), 5.0))
    method.student_loss(networks(student=student), data, ExitAt(0, 0), {})
    assert torch.equal(student.x[0], ExitAt(0, 0).noise("student/noise-1", torch.arange(4), TINY))


def test_raw_steps_are_warped_for_rollout_and_sampler():
    method = DMD((1000.0, 750.0, 500.0, 250.0), warp_denoising_step=True, flow_shift=5.0)
    wanted = [1000, 937.5, 833.3333, 625]
    assert method.sampler().timesteps == pytest.approx(wanted)
    student = Seen(Gaussian(1.0))
    method.roll_out({"student": student}, batch(), ExitAt(0, 3), "student", grad=False)
    assert [1000 * s[0].item() for s in student.sigma] == pytest.approx(wanted)
    assert DMD(flow_shift=5.0).sampler().timesteps == (1000.0, 757.0, 522.0)


# Who is updated when


def test_a_student_turn_can_replace_the_fake_scores():
    method = DMD(student_interval=3, student_turn="replaces")
    roles = [[u.role for u in method.updates(step)] for step in range(6)]
    assert roles == [["fake_score"], ["fake_score"], ["student"]] * 2


@pytest.mark.parametrize("reuse", [True, False])
def test_a_rollout_can_be_reused(reuse):
    """Then the fake score learns from the student's own x, rolled out once; and the window is that of its exit step."""
    method = DMD((1000.0,), student_interval=1, reuse_rollout=reuse, teacher_guidance=1.0)
    student, fake_score, shared = Seen(Gaussian(1.0)), Seen(Gaussian(0.0)), {}
    held = networks(student=student, fake_score=fake_score)
    for update in method.updates(0):
        update.loss(held, batch(shape=TINY), RNG, shared)
    assert len(student.x) == (1 if reuse else 2) and ("x" in shared) == reuse
    eps = RNG.noise("fake_score/score_eps", torch.arange(4), TINY)
    s = column(fake_score.sigma[1])
    x = (fake_score.x[1] - s * eps) / (1 - s)
    own = method.roll_out(networks(), batch(shape=TINY), RNG, "student" if reuse else "fake_score", grad=False)
    torch.testing.assert_close(x, own, atol=1e-4, rtol=0)
    assert not reuse or not shared["x"].requires_grad


def test_exit_steps_are_uniform():
    """Oracle 19: chi^2 over 10,000 draws."""
    method = DMD((1000.0, 750.0, 500.0, 250.0))
    counts = torch.bincount(torch.tensor([method.exit_step(RNG.at(i), "student") for i in range(10_000)]))
    assert chisquare(counts.numpy()).pvalue > 1e-3


# At which levels


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, [(0, 1000)] * 3),
        ({"min_score_timestep": 200}, [(200, 1000)] * 3),
        ({"ts_schedule": True, "min_score_timestep": 200}, [(757, 1000), (522, 1000), (0, 1000)]),
        ({"ts_schedule_max": True}, [(0, 1000), (0, 757), (0, 522)]),
        ({"ts_schedule": True, "ts_schedule_max": True}, [(757, 1000), (522, 757), (0, 522)]),
        ({"ts_schedule": True, "score_shift": 8.0}, [(280, 1000), (120, 1000), (0, 1000)]),
    ],
)
@pytest.mark.parametrize("loss", ["student_loss", "fake_score_loss"])
def test_score_levels_keep_to_the_window_of_the_exit_step(fields, wanted, loss):
    method = DMD(teacher_guidance=1.0, **fields)
    for exit_step, (start, end) in enumerate(wanted):
        fake_score = Seen(Gaussian(0.0))
        data = batch(range(200), (1, 1, 1, 1))
        getattr(method, loss)(networks(fake_score=fake_score), data, ExitAt(0, exit_step), {})
        s = method.score_shift
        low, high = (1000 * min(max(s * i / (1000 + (s - 1) * i), 0.02), 0.98) for i in (start, end - 1))
        levels = 1000 * fake_score.sigma[0]
        assert low - 0.01 <= levels.min() and levels.max() <= high + 0.01
        reach = 0.1 * (high - low)  # 200 draws come within a tenth of both ends
        assert levels.min() < low + reach and levels.max() > high - reach


def test_where_each_chunk_has_its_own_exit_step_the_schedule_has_no_effect():
    method = DMD(ts_schedule=True, ts_schedule_max=True, min_score_timestep=100)
    assert method.score_levels(method.timesteps, None) == (100, 1000)


# With which guidance


@pytest.mark.parametrize(
    ("scale", "form", "standard"),
    [(0.0, "std", 1.0), (0.0, "extra", 1.0), (1.0, "std", 1.0), (1.2, "std", 1.2), (1.2, "extra", 2.2)],
)
def test_guidance_of_the_fake_score(scale, form, standard):
    """Its mu is u + s (c - u) with prompts 1 and 0; the loss of the fake score itself is never guided."""
    fake_score, teacher = Seen(Gaussian()), Gaussian(2.0)
    method = DMD(
        (1000.0,),
        teacher_guidance=1.0,
        fake_score_guidance=scale,
        fake_score_guidance_form=form,
        min_norm=1000.0,
        score_min=0.5 - 1e-7,
        score_max=0.5,
    )
    assert method.fake_score_scale == pytest.approx(standard)
    x = torch.zeros(4, *TINY, requires_grad=True)

    def student(x_t, sigma, cond):
        return Prediction(x_t - x)

    loss = method.student_loss(networks(student=student, fake_score=fake_score, teacher=teacher), batch(), RNG, {}).loss
    loss.backward()
    wanted = (standard - 2.0) * 0.25 / 0.3125 / 1000 / x.numel()  # oracle 2 with a = s
    torch.testing.assert_close(x.grad, torch.full_like(x, wanted), rtol=1e-4, atol=0)
    method.fake_score_loss(networks(fake_score=fake_score), batch(), RNG, {})
    assert len(fake_score.x[-1]) == 4 and fake_score.text[-1].all()


@pytest.mark.parametrize("fields", [{"teacher_guidance": 3.0}, {"teacher_guidance": 1.0, "fake_score_guidance": 1.2}])
def test_guidance_without_negative_embeddings_is_refused(fields):
    with pytest.raises(ValueError, match="negative prompt"):
        DMD(**fields).student_loss(networks(), batch(uncond={}), RNG, {})


def test_the_head_of_a_run_tells_the_guidance_that_is_applied():
    text = DMD(teacher_guidance=3.0, teacher_guidance_form="extra").describe()
    assert "1000, 757, 522 (sde)" in text
    assert "teacher s = 4 (from 3 extra)" in text and "fake score s = 1 (from 0 std)" in text
    assert DMD(teacher_guidance=3.0).teacher_scale == 3.0


# What is logged


def test_logs_of_a_student_update():
    method, data = DMD((1000.0,), teacher_guidance=3.0), batch(shape=(1, 2, 4, 4))
    logs = method.student_loss(networks(teacher=Gaussian()), data, RNG, {}).logs
    per_sample = {name for name, value in logs.items() if value.shape == (4,)}
    assert per_sample == logs.keys() - {"dmd_loss", "exit_step"}
    assert {"teacher_guidance_gap", "student_std", "teacher_mean", "dmd_norm_min", "dmd_norm_median"} < per_sample
    assert not any(value.requires_grad for value in logs.values())
    # mu_c - mu_u = sigma^2 / D for prompts that are 1 apart
    sigma = method.diffuse(torch.zeros(4, 1), data, RNG, "student", (0, 1000))[1]
    gap = sigma**2 / ((1 - sigma) ** 2 * 0.25 + sigma**2)
    torch.testing.assert_close(logs["teacher_guidance_gap"], gap, atol=1e-5, rtol=0)

    real = batch(shape=(1, 2, 4, 4), x_0=torch.full((4, 1, 2, 4, 4), 3.0))
    logs = DMD((1000.0,), teacher_guidance=1.0).student_loss(networks(), real, RNG, {}).logs
    assert logs["data_mean"].tolist() == [3.0] * 4 and "teacher_mean" not in logs and "teacher_guidance_gap" not in logs


@pytest.mark.parametrize("target", ["velocity", "x_0", "eps"])
def test_an_optimal_fake_score_is_logged_at_its_floor(target):
    """Oracle 7 at all levels at once, over the levels that it was shown."""
    method = DMD((1000.0,), fake_score_target=target)

    def student(x_t, sigma, cond):
        return Prediction(x_t - (2.0 + 0.5 * x_t))

    data = batch(range(50), (1, 1, 50, 40))
    terms = method.fake_score_loss(networks(student=student, fake_score=Gaussian(2.0)), data, RNG, {})
    assert terms.logs["fake_score_over_floor"].item() == pytest.approx(1.0, abs=4 * (2 / 100_000) ** 0.5)
    assert torch.equal(terms.logs["fake_score_loss"], terms.loss)
    for i in range(5):
        bin = f"{i / 5:.1f}-{(i + 1) / 5:.1f}"
        loss, floor = (terms.logs[f"fake_score_{what}_by_sigma/{bin}"] for what in ("loss", "floor"))
        there = ~loss.isnan()
        assert there.any() and torch.equal(there, ~floor.isnan())
        torch.testing.assert_close(loss[there], floor[there], rtol=5 * (2 / 2000) ** 0.5, atol=0)
