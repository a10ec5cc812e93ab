from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import nn

from ray_distill.methods import DMD
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.rng import StatelessRng
from ray_distill.types import Prediction, Pull, Sampler
from tests.tiny_wan import SHAPE, TEXT, tiny_wan
from tests.unit.toys import Gaussian, batch

RNG = StatelessRng(0)


class ExitAt(StatelessRng):
    """The run's randomness with the exit step given."""

    def control(self, purpose, high):
        assert high == 3
        return self.step


@dataclass
class Counted:
    """A denoiser that notes, call by call, its batch size and whether a gradient was wanted."""

    denoiser: object
    sizes: list = field(default_factory=list)
    grads: list = field(default_factory=list)

    def __call__(self, x_t, sigma, cond):
        self.sizes.append(len(x_t))
        self.grads.append(torch.is_grad_enabled())
        return self.denoiser(x_t, sigma, cond)


class Says(nn.Module):
    """A student whose x_0-prediction is ``x_0``, whatever it is shown."""

    def __init__(self, x_0):
        super().__init__()
        self.x_0 = nn.Parameter(x_0)

    def forward(self, x_t, sigma, cond):
        return Prediction((x_t - self.x_0) / sigma.reshape(-1, 1, 1, 1, 1))


class OneStep(nn.Module):
    """The linear student: x_0 = mean + std x_1 from pure noise."""

    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = nn.Parameter(torch.tensor(mean)), nn.Parameter(torch.tensor(std))

    def forward(self, x_t, sigma, cond):
        return Prediction(x_t - (self.mean + self.std * x_t))


def at_level(sigma, **kwargs):
    """One-step DMD that scores at one noise level (fp32: the window has a width of 1e-7)."""
    return DMD(timesteps=(1000.0,), score_min=sigma - 1e-7, score_max=sigma, teacher_guidance=1.0, **kwargs)


def wans(**seeds):
    networks = {role: tiny_wan(seed) for role, seed in ({"student": 1, "fake_score": 2, "teacher": 3} | seeds).items()}
    text = RNG.noise("text", torch.arange(2), TEXT)
    data = batch(range(2), SHAPE, cond={"text": text}, uncond={"text": torch.zeros_like(text)})
    return networks, {role: WanDenoiser(network) for role, network in networks.items()}, data


def touched(module):
    return [p.grad is not None and bool(p.grad.any()) for p in module.parameters()]


# The closed forms


@pytest.mark.parametrize(("sigma", "raw"), [(0.1, -0.0941176471), (0.5, -1.6), (0.9, -1.9938461538)])
def test_gradient_between_two_gaussians(sigma, raw):
    """Oracle 2, through the whole loss. A large min_norm turns the normaliser into a constant."""
    data = batch(shape=(1, 2, 4, 4))
    student = Says(RNG.noise("x", data.sample_ids, data.latent_shape))
    networks = {"student": student, "fake_score": Gaussian(0.0), "teacher": Gaussian(2.0)}
    terms = at_level(sigma, min_norm=1000.0).student_loss(networks, data, RNG, {})
    terms.loss.backward()
    wanted = torch.full_like(student.x_0, raw / 1000 / student.x_0.numel())
    torch.testing.assert_close(student.x_0.grad, wanted, rtol=1e-3, atol=0)  # fp32: x - (x - g) keeps 3 digits of g


def test_normalised_gradient():
    """g / N with n_b = mean |x - mu_real(x_s)|, from what the networks were really shown."""
    data = batch(shape=(1, 2, 4, 4))
    student, seen = Says(RNG.noise("x", data.sample_ids, data.latent_shape)), []

    def teacher(x_s, sigma, cond):
        seen.append((x_s, sigma, Gaussian(2.0)(x_s, sigma, cond).velocity))
        return Prediction(seen[0][2])

    networks = {"student": student, "fake_score": Gaussian(0.0), "teacher": teacher}
    DMD(timesteps=(1000.0,), teacher_guidance=1.0).student_loss(networks, data, RNG, {}).loss.backward()
    x_s, sigma, v_real = seen[0]
    assert len(sigma.unique()) == len(data.sample_ids)  # a level of its own for each sample
    s = sigma.reshape(-1, 1, 1, 1, 1)
    mu_fake, mu_real = x_s - s * Gaussian(0.0)(x_s, sigma, {}).velocity, x_s - s * v_real
    n = (student.x_0 - mu_real).abs().mean((1, 2, 3, 4), keepdim=True)
    wanted = ((mu_fake - mu_real) / n / x_s.numel()).detach()
    torch.testing.assert_close(student.x_0.grad, wanted, rtol=1e-3, atol=1e-7)
    # What is scored is the student's own x, noised on the path.
    assert ((x_s - (1 - s) * student.x_0) / s).std().item() == pytest.approx(1, abs=0.3)


def test_equal_scores_give_exactly_nothing():
    """Oracle 3, with real networks."""
    networks, held, data = wans(fake_score=3)
    loss = DMD(teacher_guidance=1.0).student_loss(held, data, RNG, {}).loss
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is None or not p.grad.any() for n in networks.values() for p in n.parameters())


def test_equal_scores_under_guidance_leave_the_guidance_term():
    """Oracle 3: g = -(w - 1)(mu_c - mu_u) / n; prompts are 1 apart, so mu_c - mu_u = sigma^2 / D."""
    data = batch(shape=(1, 2, 4, 4))
    student = Says(RNG.noise("x", data.sample_ids, data.latent_shape))
    networks = {"student": student, "fake_score": Gaussian(), "teacher": Gaussian()}
    replace(at_level(0.5, min_norm=1000.0), teacher_guidance=3.0).student_loss(networks, data, RNG, {}).loss.backward()
    wanted = torch.full_like(student.x_0, -2 * 0.25 / 0.3125 / 1000 / student.x_0.numel())
    torch.testing.assert_close(student.x_0.grad, wanted, rtol=1e-3, atol=0)


@pytest.mark.parametrize(("form", "mean"), [("std", 3.0), ("extra", 4.0)])
def test_fixed_point_of_guidance(form, mean):
    """Oracle 5: with a perfect fake score the student's mean ends at the guided teacher's, w or w + 1."""
    method = DMD((1000.0,), teacher_guidance=3.0, teacher_guidance_form=form)
    student = OneStep(0.0, 0.5)
    networks = {"student": student, "fake_score": Gaussian(student.mean), "teacher": Gaussian()}
    optimizer = torch.optim.SGD([student.mean], lr=0.3)
    for step in range(150):
        optimizer.zero_grad()
        method.student_loss(networks, batch(range(8)), RNG.at(step), {}).loss.backward()
        optimizer.step()
    assert student.mean.item() == pytest.approx(mean, abs=1e-3)


# Who is moved


def test_a_students_update_reaches_the_student_alone():
    networks, held, data = wans()
    DMD().student_loss(held, data, RNG, {}).loss.backward()
    assert sum(touched(networks["student"])) > 0.9 * len(touched(networks["student"]))
    assert all(p.grad is None for role in ("fake_score", "teacher") for p in networks[role].parameters())


def test_a_fake_scores_update_reaches_the_fake_score_alone():
    networks, held, data = wans()
    DMD().fake_score_loss(held, data, RNG, {}).loss.backward()
    assert sum(touched(networks["fake_score"])) > 0.9 * len(touched(networks["fake_score"]))
    assert all(p.grad is None for role in ("student", "teacher") for p in networks[role].parameters())


@pytest.mark.parametrize("rollout", ["sde", "ode"])
@pytest.mark.parametrize("exit_step", [0, 1, 2])
def test_gradient_at_the_exit_step_and_no_forward_after_it(exit_step, rollout):
    method = DMD(rollout=rollout)
    networks = {role: Counted(Gaussian(1.0)) for role in method.roles}
    method.student_loss(networks, batch(), ExitAt(0, exit_step), {})
    assert networks["student"].grads == [False] * exit_step + [True]
    assert networks["fake_score"].grads == networks["teacher"].grads == [False]
    assert networks["teacher"].sizes == [8]  # both branches of guidance as one batch

    networks = {role: Counted(Gaussian(1.0)) for role in method.roles}
    method.fake_score_loss(networks, batch(), ExitAt(0, exit_step), {})
    assert networks["student"].grads == [False] * (exit_step + 1)
    assert networks["fake_score"].grads == [True] and networks["teacher"].grads == []


def exits(method, loss, ids, steps):
    counted = [Counted(Gaussian(1.0)) for _ in range(steps)]
    for step, student in enumerate(counted):
        networks = {"student": student, "fake_score": Gaussian(1.0), "teacher": Gaussian(2.0)}
        getattr(method, loss)(networks, batch(ids, (1, 1, 1, 2)), RNG.at(step), {})
    return [len(student.grads) - 1 for student in counted]


@pytest.mark.parametrize("loss", ["student_loss", "fake_score_loss"])
def test_exit_steps_depend_on_the_step_alone(loss):
    method = DMD(teacher_guidance=1.0)
    one_rank, another = exits(method, loss, [0], 20), exits(method, loss, [1], 20)
    assert one_rank == another and set(one_rank) == {0, 1, 2}


def test_the_rollout_is_the_sampler():
    """The student trains on the inputs that sampling shows it: same levels, same kind."""
    method, levels = DMD((1000.0, 600.0, 200.0)), []

    def student(x_t, sigma, cond):
        levels.append(sigma.unique().item())
        return Gaussian(1.0)(x_t, sigma, cond)

    method.roll_out({"student": student}, batch(), ExitAt(0, 2), "student", grad=True)
    assert levels == pytest.approx([1.0, 0.6, 0.2])
    assert method.sampler() == Sampler((1000.0, 600.0, 200.0), "sde", 1.0)
    assert DMD(rollout="ode").sampler().kind == "ode"


# Randomness, schedule, faults


def test_a_loss_is_a_function_of_the_seed():
    _, held, data = wans()
    for name in ("student_loss", "fake_score_loss"):
        loss = getattr(DMD(), name)
        one, again, other = (loss(held, data, StatelessRng(seed, 3), {}).loss for seed in (0, 0, 1))
        assert torch.equal(one, again) and not torch.equal(one, other)


def test_micro_batches_sum_up_to_the_batch():
    """Each sample's loss depends on its own id: how a batch is cut changes nothing."""
    networks = {"student": Gaussian(1.0), "fake_score": Gaussian(0.0), "teacher": Gaussian(2.0)}
    for name in ("student_loss", "fake_score_loss"):
        loss = getattr(DMD(teacher_guidance=1.0), name)
        parts = [loss(networks, batch(ids), RNG, {}).loss for ids in ([0, 1], [2, 3])]
        torch.testing.assert_close(torch.stack(parts).mean(), loss(networks, batch(), RNG, {}).loss)


@pytest.mark.parametrize("interval", [1, 2, 5])
def test_schedule(interval):
    roles = [[u.role for u in DMD(student_interval=interval).updates(step)] for step in range(10)]
    for step, taken in enumerate(roles, 1):
        assert taken == (["student", "fake_score"] if step % interval == 0 else ["fake_score"])


def test_the_fake_score_follows_the_students_updates_alone():
    updates = DMD(student_interval=2, ida_decay=0.97).updates(1)
    assert [update.pulls for update in updates] == [(Pull("fake_score", "student", 0.97, "ida_decay"),), ()]
    assert not any(update.pulls for step in range(2) for update in DMD(student_interval=2).updates(step))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_sample_gives_no_gradient(bad):
    data = batch(shape=(1, 2, 4, 4))
    x_0 = RNG.noise("x", data.sample_ids, data.latent_shape)

    def gradient(teacher):
        student = Says(x_0.clone())
        networks = {"student": student, "fake_score": Gaussian(0.0), "teacher": teacher}
        terms = DMD((1000.0,), teacher_guidance=1.0).student_loss(networks, data, RNG, {})
        terms.loss.backward()
        return student.x_0.grad, terms

    def broken(x_s, sigma, cond):
        v = Gaussian(2.0)(x_s, sigma, cond).velocity.clone()
        v[1, 0, 0, 1, 1] = bad
        return Prediction(v)

    whole, terms = gradient(Gaussian(2.0))
    assert not terms.logs["dmd_nonfinite_count"].any()
    left, terms = gradient(broken)
    assert terms.logs["dmd_nonfinite_count"].tolist() == [0, 1, 0, 0] and terms.loss.isfinite()
    assert not left[1].any()
    good = [0, 2, 3]
    assert torch.equal(left[good], whole[good])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"timesteps": (500.0, 1000.0)}, "timesteps = .*decreasing"),
        ({"timesteps": ()}, "timesteps = .*one or more"),
        ({"timesteps": (1200.0, 500.0)}, "timesteps = .*1200.*in .0, 1000"),
        ({"student_interval": 0}, "student_interval = 0: use 1"),
        ({"student_interval": 1, "student_turn": "replaces"}, "student_interval = 1: use 2 or more"),
        ({"reuse_rollout": True, "student_turn": "replaces"}, "reuse_rollout = True"),
        ({"flow_shift": 0.0}, "flow_shift = 0.0"),
        ({"ida_decay": 0.0}, "ida_decay = 0.0: give the fake score's share, in .0, 1.; 1 is off"),
        ({"ida_decay": 1.1}, "ida_decay = 1.1"),
        ({"score_min": 0.9, "score_max": 0.1}, "score_min, score_max = 0.9, 0.1"),
        ({"score_shift": -1.0}, "score_shift, min_norm = -1.0"),
        ({"min_norm": 0.0}, "score_shift, min_norm = 1.0, 0.0"),
        ({"min_score_timestep": 1000}, "min_score_timestep = 1000: give a raw index from 0 to 999"),
        ({"min_score_timestep": 300, "ts_schedule_max": True, "timesteps": (1000.0, 300.0)}, "after step 300"),
        (
            {"ts_schedule": True, "timesteps": (1000.0, 999.9)},
            "no score timestep is left in .1000, 1000. after step 1000",
        ),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        DMD(**fields)
