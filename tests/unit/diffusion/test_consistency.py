"""Oracles 9 to 12 and 14: the exact flow map of Gaussian data, and what a consistency model makes of it."""

import math

import pytest
import torch

from ray_distill.diffusion.consistency import (
    Phases,
    Step,
    consistency_function,
    consistency_pair,
    even_edges,
    solver_phases,
)
from ray_distill.diffusion.flow import x_0_from_velocity
from ray_distill.types import Prediction
from tests.unit.toys import ExactMap, Gaussian

DATA = Gaussian(2.0, 0.5)
X_1 = torch.full((1, 1, 1, 1, 1), 1.3, dtype=torch.float64)


def level(*sigma):
    return torch.tensor(sigma, dtype=torch.float64)


def velocity(x, sigma):
    return DATA(x, level(sigma), {}).velocity


# The exact flow map


@pytest.mark.parametrize(("end", "wanted"), [(0.0, 2.65), (0.5, 1.7267220927)])
def test_the_flow_map(end, wanted):
    assert DATA.flow_map(X_1, level(1.0), level(end)).item() == pytest.approx(wanted, abs=1e-9)


def test_the_mean_velocity_of_the_exact_map():
    """Oracle 10: u = (x_t - x_r) / (t - r) keeps u = v - (t - r) du/dt along the ODE."""
    t, r, step = 0.8, 0.3, 1e-5

    def u(x, t):
        return (x - DATA.flow_map(x, level(t), level(r))) / (t - r)

    v = velocity(X_1, t)
    assert u(X_1, t).item() == pytest.approx(-1.2291893748, abs=1e-9)
    assert v.item() == pytest.approx(-0.9615384615, abs=1e-9)
    up, down = (u(X_1 + h * v, t + h) for h in (step, -step))
    assert (u(X_1, t) - (v - (t - r) * (up - down) / (2 * step))).abs().item() < 1e-7


def test_the_exact_map_is_constant_along_the_ode():
    up, down = (
        DATA.flow_map(X_1 + h * velocity(X_1, 0.8), level(0.8 + h), level(0.0)) for h in (1e-5, -1e-5)
    )  # central: the curvature of the true path cancels
    assert ((up - down) / 2e-5).abs().item() < 1e-8


# The boundary


def test_the_ends_of_phases_are_fixed_points():
    x = torch.randn(3, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for sigma in (torch.zeros(3), torch.tensor([0.0, 0.4, 0.97541])):
        assert torch.equal(consistency_function(Gaussian(1.0), x, sigma, {}, sigma), x)


def test_the_scalings():
    """c_skip = 1 and c_out = sigma_end - sigma, which is 0 at the end."""

    def says(v):
        return lambda x, sigma, cond: Prediction(torch.full_like(x, v))

    for sigma, end in ((1.0, 0.0), (0.7, 0.2), (0.2, 0.2)):
        zero, one = (consistency_function(says(v), X_1, level(sigma), {}, level(end)).item() for v in (0.0, 1.0))
        assert zero == X_1.item() and one - zero == pytest.approx(end - sigma, abs=1e-15)


def test_the_x_0_prediction_in_the_other_parametrisation():
    """Oracle 14: TrigFlow's y = cos x_0 + sin eps with its own scalings says the same x_0."""
    for sigma in (0.02, 0.3, 0.5, 0.9, 1.0):
        theta = math.atan2(sigma, 1 - sigma)
        both = math.cos(theta) + math.sin(theta)
        assert math.sin(theta) / both == pytest.approx(sigma, abs=1e-12)
        v = velocity(X_1, sigma)
        x_0 = (X_1 * both) / both - math.sin(theta) / both * v  # c_skip y + c_out v
        torch.testing.assert_close(x_0_from_velocity(X_1, v, level(sigma)), x_0, rtol=0, atol=1e-12)


# The solver's grid


def test_a_draw_is_one_step_in_its_phase():
    phases = Phases((0.0, 0.1, 0.3, 0.6, 1.0), edges=(0, 2))
    u = torch.tensor([0.0, 0.24, 0.25, 0.5, 0.75, 1 - 2**-24])
    assert phases.index(u).tolist() == [0, 0, 1, 2, 3, 3]
    step = phases.draw(u)
    assert step.sigma.tolist() == pytest.approx([0.1, 0.1, 0.3, 0.6, 1.0, 1.0])
    assert step.sigma_prev.tolist() == pytest.approx([0.0, 0.0, 0.1, 0.3, 0.6, 0.6])
    assert step.sigma_end.tolist() == pytest.approx([0.0, 0.0, 0.0, 0.3, 0.3, 0.3])


def test_the_largest_draw_stays_on_the_grid():
    u = torch.tensor([1 - 2**-24])
    assert all(Phases(tuple(map(float, range(n + 1)))).index(u).item() == n - 1 for n in (35, 50, 1000))


def test_even_phases():
    assert even_edges(50, 1) == (0,) and even_edges(50, 4) == (0, 12, 25, 37)
    for phases in (0, 51):
        with pytest.raises(
            ValueError, match=f"multiphase = {phases}: a phase has at least one of the 50 solver steps; use 1 to 50"
        ):
            even_edges(50, phases)


def test_as_many_steps_as_phases_start_at_their_tops():
    assert solver_phases(50, 1.0, 0.0, 1.0).timesteps(4) == pytest.approx((1000, 740, 500, 240))
    for steps, phases in ((50, 4), (20, 3), (40, 5), (100, 7)):
        cut = solver_phases(steps, 5.0, 0.0, 1.0, phases)
        assert cut.timesteps(phases) == tuple(1000 * cut.levels[top] for top in (steps, *reversed(cut.edges[1:])))
    with pytest.raises(ValueError, match="9 steps do not fit on a grid of 8 levels"):
        solver_phases(8, 1.0, 0.0, 1.0).timesteps(9)


def test_a_grid_halts_at_its_ends_and_at_given_edges():
    cut = solver_phases(8, 1.0, 0.3, 1.0, (0.8, 0.6))
    assert cut.levels == pytest.approx((0.3, 0.375, 0.5, 0.6, 0.625, 0.75, 0.8, 0.875, 1))
    assert cut.edges == (0, 3, 6)
    assert solver_phases(10, 1.0, 0.3, 1.0).levels == pytest.approx([k / 10 for k in range(3, 11)])
    for edge in (0.3, 1.0):
        with pytest.raises(ValueError, match=f"multiphase = .{edge}.: give raw levels between 0.3 and 1"):
            solver_phases(8, 1.0, 0.3, 1.0, (edge,))


# The pair that is compared


def pair(sigma, width, student=None, end=0.0, teacher=DATA, scale=1.0):
    student = student or ExactMap(DATA, end)
    step = Step(level(sigma), level(sigma - width), level(end))
    text = {"text": torch.ones(1, 1, 1)}
    return consistency_pair(student, student, teacher, X_1, step, text, {"text": 0 * text["text"]}, scale)


@pytest.mark.parametrize("end", [0.0, 0.4])
def test_the_exact_map_is_consistent_up_to_the_square_of_the_step(end):
    """Oracle 12: what is left is Euler's, and halves twice with the step."""
    widths = (0.1, 0.05, 0.025, 0.0125)
    gaps = [(a - b).abs().item() for a, b in (pair(0.7, width, end=end) for width in widths)]
    ratios = [large / small for large, small in zip(gaps, gaps[1:], strict=False)]
    assert ratios == pytest.approx([4.54, 4.26, 4.13], abs=0.005)
    assert 0 < gaps[-1] < 1e-3


def test_at_a_phases_last_step_the_teacher_is_the_target():
    """Oracle 11: pred - target = (sigma_prev - sigma)(v_student - v_teacher), and the target network has no say."""
    prediction, aim = pair(0.7, 0.1, student=Gaussian(0.0), end=0.6)
    gap = Gaussian(0.0)(X_1, level(0.7), {}).velocity - velocity(X_1, 0.7)
    torch.testing.assert_close(prediction - aim, -0.1 * gap, rtol=0, atol=1e-12)


def test_the_teachers_step_is_guided_by_each_samples_own_scale():
    text = torch.ones(2, 1, 1)
    step = Step(level(0.7, 0.7), level(0.6, 0.6), level(0.6, 0.6))
    x = X_1.expand(2, -1, -1, -1, -1)
    both = Gaussian(), Gaussian(), Gaussian(), x, step, {"text": text}, {"text": 0 * text}
    _, aim = consistency_pair(*both, level(1.0, 3.0))
    for row, scale in zip(aim, (1.0, 3.0), strict=True):
        v_c, v_u = Gaussian(1.0)(X_1, level(0.7), {}).velocity, Gaussian(0.0)(X_1, level(0.7), {}).velocity
        assert row.item() == pytest.approx((X_1 - 0.1 * (v_u + scale * (v_c - v_u))).item(), abs=1e-12)


# Within a phase


def test_a_level_of_the_same_phase():
    phases = Phases((0.0, 0.1, 0.3, 0.6, 1.0), edges=(0, 2))
    k = torch.tensor([0, 1, 1, 2, 3, 3])
    u = torch.tensor([0.0, 0.4, 1 - 2**-24, 0.0, 0.5, 1 - 2**-24])
    assert phases.within(k, u).tolist() == pytest.approx([0.0, 0.0, 0.1, 0.3, 0.6, 0.6])
