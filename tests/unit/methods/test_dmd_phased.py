"""Phased DMD: who is asked and moved where, its losses in closed form, and two linear experts end to end."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from ray_distill.diffusion import flow, phased
from ray_distill.diffusion.guidance import guided_x_0
from ray_distill.diffusion.samplers import by_level, sample
from ray_distill.methods.dmd_phased import HIGH, LOW, PhasedDMD
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.rng import StatelessRng
from ray_distill.types import Experts, Prediction, Pull, Stage
from tests.tiny_wan import SHAPE, TEXT, tiny_wan
from tests.unit.toys import Gaussian, batch, column

RNG = StatelessRng(0)
METHOD = PhasedDMD()
REGIONS = {"high": HIGH, "low": LOW}
ROLES = tuple(METHOD.roles)


class Draws(StatelessRng):
    """The run's randomness with its whole numbers given."""

    def __init__(self, exit_step=0, above=0):
        super().__init__(0, 0)
        object.__setattr__(self, "given", {"exit": exit_step, "range": above})

    def control(self, purpose, high):
        return self.given[purpose.rpartition("/")[2]]


def watched(**others):
    """Gaussian networks that note (role, levels, gradient, samples) of each call; ``others`` stand in their places."""
    calls = []

    def of(role):
        def see(x_t, sigma, cond):
            calls.append((role, sigma.clone(), torch.is_grad_enabled(), len(x_t)))
            return others.get(role, Gaussian(1.0))(x_t, sigma, cond)

        return see

    return {role: of(role) for role in ROLES}, calls


def wans():
    networks = {role: tiny_wan(seed) for seed, role in enumerate(ROLES)}
    text = RNG.noise("text", torch.arange(2), TEXT)
    data = batch(range(2), SHAPE, cond={"text": text}, uncond={"text": torch.zeros_like(text)})
    return networks, {role: WanDenoiser(network) for role, network in networks.items()}, data


# Who is asked, and where


@pytest.mark.parametrize("exit_step", [0, 1])
def test_the_high_student_is_compared_above_its_end_with_the_high_teacher(exit_step):
    networks, calls = watched()
    METHOD.student_loss(HIGH, networks, batch(range(64)), Draws(exit_step))
    levels = [1.0, 0.95454545][: exit_step + 1]
    *rollout, fake, teacher = calls
    assert [(role, float(sigma[0]), grad) for role, sigma, grad, _ in rollout] == [
        ("student", pytest.approx(level), number == exit_step) for number, level in enumerate(levels)
    ]
    assert (fake[0], teacher[0], fake[2], teacher[2]) == ("fake_score", "teacher", False, False)
    assert (fake[3], teacher[3]) == (64, 128)  # both branches of guidance as one batch
    assert fake[1].min() > 0.875 + 0.008 and fake[1].max() < 0.9972 and len(fake[1].unique()) > 32


@pytest.mark.parametrize("exit_step", [0, 1])
def test_the_low_student_begins_where_the_high_student_ends(exit_step):
    networks, calls = watched()
    METHOD.student_loss(LOW, networks, batch(range(64)), Draws(exit_step))
    *rollout, fake, teacher = calls
    levels = [("student", 1.0), ("student", 0.95454545), ("student_low", 0.875), ("student_low", 0.7)]
    assert [(role, float(sigma[0]), grad) for role, sigma, grad, _ in rollout] == [
        (role, pytest.approx(level), number == 2 + exit_step)
        for number, (role, level) in enumerate(levels[: 3 + exit_step])
    ]
    assert (fake[0], teacher[0]) == ("fake_score_low", "teacher_low")
    assert fake[1].max() < 0.875 and fake[1].min() > 0.1


def test_the_low_student_is_seen_by_the_high_teacher_only_above_the_boundary():
    method = replace(METHOD, low_levels="all")
    for above, asked in ((0, "teacher_low"), (1, "teacher")):
        networks, calls = watched()
        method.student_loss(LOW, networks, batch(range(64)), Draws(0, above))
        _, (fake, sigma, *_), (teacher, *_) = calls[-3:]
        assert (fake, teacher) == ("fake_score_low", asked)
        assert bool((sigma >= 0.875).all()) == bool(above) and bool((sigma < 0.875).all()) == (not above)


def test_each_teacher_has_its_own_guidance():
    """Prompts are 1 apart, so that g of equal scores is -(s - 1) sigma^2 / D / n: s = 4 of the one, 3 of the other."""
    for region, scale in ((HIGH, 4.0), (LOW, 3.0)):
        seen = {}
        networks, _ = watched()
        networks |= dict.fromkeys(("teacher", "teacher_low"), Gaussian())

        def fake(x_t, sigma, cond, seen=seen):
            seen["sigma"] = sigma
            return Gaussian()(x_t, sigma, cond)

        networks[region.fake_score] = fake
        student = Says(RNG.noise("x", torch.arange(4), (1, 2, 4, 4)))
        networks[region.student] = student
        method = replace(METHOD, min_norm=1000.0)
        method.student_loss(region, networks, batch(shape=(1, 2, 4, 4)), Draws()).loss.backward()
        s = column(seen["sigma"])
        wanted = -(scale - 1) * s**2 / ((1 - s) ** 2 * 0.25 + s**2) / 1000 / student.x_0.numel()
        torch.testing.assert_close(student.x_0.grad, wanted.expand_as(student.x_0), rtol=1e-3, atol=0)


def test_the_students_gradient_at_a_level_above_its_end():
    """Oracle 43: at .6 the scores of N(0, .5^2) and of the data N(2, .5^2) are -1.8 apart, whatever x_s was."""
    x_s, sigma = RNG.noise("x", torch.arange(4), (1, 1, 2, 2)), torch.full((4,), 0.6)
    x_t = flow.renoise(x_s, RNG.noise("n", torch.arange(4), (1, 1, 2, 2)), torch.full((4,), 0.3), sigma)
    (mu_fake, _), (mu_real, _) = (guided_x_0(Gaussian(mean), x_t, sigma, {}, None, 1.0) for mean in (0.0, 2.0))
    torch.testing.assert_close(mu_fake - mu_real, torch.full_like(x_t, -1.8), rtol=0, atol=1e-5)


class Says(nn.Module):
    """A student whose x_0-prediction is ``x_0``, whatever it is shown."""

    def __init__(self, x_0):
        super().__init__()
        self.x_0 = nn.Parameter(x_0)

    def forward(self, x_t, sigma, cond):
        return Prediction((x_t - self.x_0) / column(sigma))


# The fake score


@pytest.mark.parametrize("weight", ["unit_floor", "none"])
def test_the_fake_scores_loss_is_least_at_the_velocity_of_the_marginal(weight):
    """Students that sample N(2, .5^2) at the phase's end: against what is seen there the loss is its floor, hence 1
    under the weight that makes it so for spread 1, and n - x_s as the target would pull away from it."""
    method = replace(METHOD, fake_score_weight=weight, high_timesteps=(1000.0,))
    data = batch(range(4096), (1, 1, 2, 2))
    exact = Linear(method.end)
    networks = {"student": exact, "fake_score": Gaussian(2.0)}
    logs = method.fake_score_loss(HIGH, networks, data, Draws()).logs
    assert logs["fake_score_over_floor"].item() == pytest.approx(1, abs=0.05)
    if weight == "unit_floor":
        assert logs["fake_score_loss"].item() == pytest.approx(1, abs=0.05)
    else:
        assert logs["fake_score_loss"].item() > 20


def test_a_wrong_target_is_seen(monkeypatch):
    monkeypatch.setattr(phased, "phase_target", lambda x_s, n, sigma, end: n - x_s)
    networks = {"student": Linear(METHOD.end), "fake_score": Gaussian(2.0)}
    method = replace(METHOD, high_timesteps=(1000.0,))
    logs = method.fake_score_loss(HIGH, networks, batch(range(4096), (1, 1, 2, 2)), Draws()).logs
    assert logs["fake_score_over_floor"].item() != pytest.approx(1, abs=0.05)


class Linear(nn.Module):
    """From pure noise z to x_s = a + b z by one Euler step to ``end``; begins at the marginal of N(2, .5^2)."""

    def __init__(self, end, a=None, b=None):
        super().__init__()
        self.end = end
        spread = ((1 - end) ** 2 * 0.25 + end**2) ** 0.5
        self.a = nn.Parameter(torch.tensor(2.0 * (1 - end) if a is None else a))
        self.b = nn.Parameter(torch.tensor(spread if b is None else b))

    def forward(self, x_t, sigma, cond):
        return Prediction((x_t - self.a - self.b * x_t) / column(sigma - self.end))


def test_fresh_noise_needs_no_bridge():
    """In an "sde" rollout the phase's end is known to be noised x_0: plain DMD, levels and roles but for."""
    method = replace(METHOD, rollout="sde")
    networks, _ = watched()
    x, x_s, end = method.roll_out(HIGH, networks, batch(), Draws(1), "student", grad=False)
    assert torch.equal(x, x_s) and end == 0
    x, x_s, end = METHOD.roll_out(HIGH, networks, batch(), Draws(1), "student", grad=False)
    assert end == 0.875 and not torch.equal(x, x_s)


def test_the_rollout_is_the_sampler():
    networks, _ = watched(student=Gaussian(1.0), student_low=Gaussian(-1.0))
    recipe, data = METHOD.sampler(), batch()
    x, *_ = METHOD.roll_out(LOW, networks, data, Draws(1), "p", grad=False)
    x_T = RNG.noise("p/noise-1", data.sample_ids, data.latent_shape)
    assert torch.equal(x, sample(by_level(recipe.experts, networks), recipe, x_T, data.cond, noise=lambda i: x_T))
    # The high student's last step ends where the low one begins.
    _, x_s, _ = METHOD.roll_out(HIGH, networks, data, Draws(1), "p", grad=False)
    seen = {}

    def low(x_t, sigma, cond):
        seen.setdefault("x_t", x_t)
        return Gaussian(-1.0)(x_t, sigma, cond)

    METHOD.roll_out(LOW, networks | {"student_low": low}, data, Draws(0), "p", grad=False)
    torch.testing.assert_close(x_s, seen["x_t"], rtol=0, atol=1e-6)


def test_a_level_at_the_boundary_is_the_high_experts():
    """0.9 is not a number of fp32: 1000 times what is nearest to it is 899.99998."""
    for timestep in (875.0, 900.0):
        see = by_level(Experts("high", "low", timestep), {"high": Gaussian(1.0), "low": Gaussian(2.0)})
        sigma, x_t = torch.full((1,), timestep / 1000), torch.zeros(1, 1, 1, 1, 1)
        assert torch.equal(see(x_t, sigma, {}).velocity, Gaussian(1.0)(x_t, sigma, {}).velocity)
        below = torch.nextafter(sigma, torch.zeros(1))
        assert torch.equal(see(x_t, below, {}).velocity, Gaussian(2.0)(x_t, below, {}).velocity)


# Who is moved


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("part", ["student", "fake_score"])
def test_an_update_reaches_its_role_alone(region, part):
    networks, held, data = wans()
    getattr(METHOD, f"{part}_loss")(REGIONS[region], held, data, RNG).loss.backward()
    moved = getattr(REGIONS[region], part)
    for role, network in networks.items():
        touched = [p.grad is not None and bool(p.grad.any()) for p in network.parameters()]
        assert (
            (sum(touched) > 0.9 * len(touched)) if role == moved else all(p.grad is None for p in network.parameters())
        )


def test_a_loss_is_a_function_of_the_seed():
    _, held, data = wans()
    for region in REGIONS.values():
        for loss in (METHOD.student_loss, METHOD.fake_score_loss):
            one, again, other = (loss(region, held, data, StatelessRng(seed, 3)).loss for seed in (0, 0, 1))
            assert torch.equal(one, again) and not torch.equal(one, other)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_sample_gives_no_gradient(bad):
    def broken(x_t, sigma, cond):
        v = Gaussian(2.0)(x_t, sigma, cond).velocity.clone()
        v[1] = bad
        return Prediction(v)

    networks, _ = watched(teacher=broken)
    networks["student"] = student = Says(RNG.noise("x", torch.arange(4), (1, 1, 2, 2)))
    method = replace(METHOD, teacher_guidance=(1.0, 1.0))
    terms = method.student_loss(HIGH, networks, batch(), Draws())
    terms.loss.backward()
    assert terms.logs["dmd_nonfinite_count"].tolist() == [0, 1, 0, 0]
    assert not student.x_0.grad[1].any() and student.x_0.grad[0].any()


# The schedule


def test_one_expert_after_the_other():
    method = PhasedDMD(high_steps=7, student_interval=3, ida_decay=0.97)
    taken = [[update.role for update in method.updates(step)] for step in range(13)]
    high, low = ["fake_score"], ["fake_score_low"]
    assert taken[:7] == [high, high, ["student", *high], high, high, ["student", *high], high]
    assert taken[7:] == [low, low, ["student_low", *low]] * 2
    assert method.updates(9)[0].pulls == (Pull("fake_score_low", "student_low", 0.97, "ida_decay"),)
    assert method.stages == (
        Stage(0, ("student", "fake_score", "teacher")),
        Stage(7, ("student", "student_low", "fake_score_low", "teacher_low"), finished=("student",)),
    )
    for step in range(13):  # what a stage does not hold is not called
        stage = [stage for stage in method.stages if stage.start <= step][-1]
        networks, calls = watched()
        for update in method.updates(step):
            update.loss({role: networks[role] for role in stage.roles}, batch(), RNG.at(step), {})
        assert {role for role, *_ in calls} <= set(stage.roles)


def test_both_in_turns():
    method = PhasedDMD(schedule="alternating", student_interval=2)
    taken = [[update.role for update in method.updates(step)] for step in range(8)]
    turn = [["fake_score"], ["student", "fake_score"], ["fake_score_low"], ["student_low", "fake_score_low"]]
    assert taken == 2 * turn and method.stages == () and method.period == (0, 4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"boundary": 1.0}, "boundary = 1.0: give a level between 0 and 1"),
        ({"high_timesteps": ()}, "high_timesteps = .*one or more"),
        ({"low_timesteps": (250.0, 500.0)}, "low_timesteps = .*decreasing"),
        ({"low_timesteps": (800.0, 250.0)}, "high_timesteps and low_timesteps together = .*decreasing"),
        ({"low_timesteps": (400.0, 250.0)}, "low_timesteps: the first is at 823.529, below the boundary 875"),
        ({"margin": 250}, "margin, score_shift, boundary = 250, .* the high student"),
        ({"margin": 0}, "margin = 0: use 1 or more"),
        ({"high_steps": 0}, "high_steps, student_interval = 0, 5"),
        ({"ida_decay": 0.0}, "ida_decay = 0.0"),
        ({"flow_shift": 0.0}, "flow_shift, score_shift, min_norm = 0.0"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        PhasedDMD(**fields)


# End to end


class LowLinear(nn.Module):
    """x_0 = c + e x_s in one step from ``end``."""

    def __init__(self, c, e):
        super().__init__()
        self.c, self.e = nn.Parameter(torch.tensor(c)), nn.Parameter(torch.tensor(e))

    def forward(self, x_t, sigma, cond):
        return Prediction((x_t - self.c - self.e * x_t) / column(sigma))


def perfect(law, end):
    """The velocity of the marginal of x_s ~ N(mean, std^2), which ``law()`` gives, at the level ``end``, noised on."""

    def see(x_t, sigma, cond):
        mean, std = law()
        alpha, beta = (column(part) for part in phased.bridge(sigma, end))
        c_x, c_n = (part if isinstance(part, float) else column(part) for part in phased.coefficients(sigma, end))
        variance = std**2
        slope = (c_x * alpha * variance + c_n * beta) / (alpha**2 * variance + beta**2)
        return Prediction(slope * (x_t - alpha * mean) + c_x * mean)

    return see


@pytest.mark.parametrize(("levels", "steps"), [("below", 500), pytest.param("all", 800, marks=pytest.mark.slow)])
def test_two_linear_experts_end_at_the_data(levels, steps):
    """Oracle 45: with perfect fake scores the high one ends at the marginal of N(2, .5^2) at .7, then the low one, on
    what that one leaves, at the data."""
    method = PhasedDMD(
        high_timesteps=(1000.0,),
        low_timesteps=(700.0,),
        warp_denoising_step=False,
        boundary=0.7,
        teacher_guidance=(1.0, 1.0),
        score_shift=1.0,
        low_levels=levels,
    )
    high, low = Linear(0.7, 0.0, 1.0), LowLinear(0.0, 1.0)
    laws = {
        "fake_score": (lambda: (high.a.detach(), high.b.detach()), 0.7),
        "fake_score_low": (lambda: (low.c + low.e * high.a, low.e * high.b), 0.0),
    }
    networks = {"student": high, "student_low": low, "teacher": Gaussian(2.0), "teacher_low": Gaussian(2.0)}
    networks |= {role: perfect(*law) for role, law in laws.items()}
    for region, student in ((HIGH, high), (LOW, low)):
        optimizer = torch.optim.Adam(student.parameters(), lr=0.02, betas=(0.0, 0.99))
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
        for step in range(steps):
            optimizer.zero_grad()
            method.student_loss(region, networks, batch(range(4), (1, 1, 16, 16)), RNG.at(step)).loss.backward()
            optimizer.step()
            schedule.step()
    assert high.a.item() == pytest.approx(0.6, abs=1e-3)
    assert abs(high.b.item()) == pytest.approx(0.7158910532, abs=1e-3)
    assert (low.c + low.e * high.a).item() == pytest.approx(2.0, abs=1e-3)
    assert abs((low.e * high.b).item()) == pytest.approx(0.5, abs=1e-3)
