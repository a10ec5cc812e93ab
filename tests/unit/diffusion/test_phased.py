"""Phases that end above the data, in fp64: oracles 43, 44 and 45."""

import pytest
import torch

from ray_distill.diffusion.flow import add_noise, renoise, velocity
from ray_distill.diffusion.phased import (
    bridge,
    coefficients,
    phase_floor,
    phase_sigma,
    phase_target,
    raw_index,
    unit_floor_weight,
)
from ray_distill.diffusion.timesteps import shift_sigma, warp

END, SIGMA, MEAN, STD = 0.3, torch.tensor([0.6], dtype=torch.float64), 2.0, 0.5


def regression(target, alpha, beta, mean, variance):
    """(slope, intercept) of E[c_x x_s + c_n n | x_t = alpha x_s + beta n] for Gaussian x_s; ``target`` = (c_x, c_n)."""
    c_x, c_n = target
    slope = (c_x * alpha * variance + c_n * beta) / (alpha**2 * variance + beta**2)
    return float(slope), float(c_x * mean - slope * alpha * mean)


def test_the_target_regresses_to_the_velocity_of_the_marginal():
    """Oracle 43: v* does for a Gaussian of the right law and for any other; n - x_s has a wrong slope and intercept."""
    alpha, beta = bridge(SIGMA, END)
    mean, variance = (1 - END) * MEAN, (1 - END) ** 2 * STD**2 + END**2
    assert regression(coefficients(SIGMA, END), alpha, beta, mean, variance) == pytest.approx((1.25, -3), abs=1e-12)
    wrong = regression((-1, 1), alpha, beta, mean, variance)
    assert wrong == pytest.approx((1.1339, -2.3071), abs=1e-4)
    narrow = regression(coefficients(SIGMA, END), alpha, beta, 1.1, 0.01)
    assert narrow == pytest.approx((1.992665037, -2.823960880), abs=1e-8)


def test_samples_agree_with_the_closed_form():
    """Least squares of v* on x_t over 400,000 draws, to four standard errors."""
    torch.manual_seed(0)
    count = 400_000
    x_s = 1.1 + 0.1 * torch.randn(count, 1, 1, 1, 1, dtype=torch.float64)
    n = torch.randn_like(x_s)
    sigma, end = SIGMA.expand(count), torch.full((count,), END, dtype=torch.float64)
    x_t, wanted = renoise(x_s, n, end, sigma).flatten(), phase_target(x_s, n, sigma, END).flatten()
    off = x_t - x_t.mean()
    slope = (off * wanted).sum() / off.square().sum()
    rest = (wanted - wanted.mean() - slope * off).square().mean()
    error = float(4 * (rest / off.square().sum()).sqrt())
    assert float(slope) == pytest.approx(1.992665037, abs=error) and error < 0.02
    assert float(rest) == pytest.approx(float(phase_floor(SIGMA, END, 0.01)), rel=0.02)


def test_floors_of_the_loss():
    """Oracle 43 and 44: the least loss, next to a phase's end hundreds, and 1 everywhere under its weight."""
    variance = (1 - END) ** 2 * STD**2 + END**2
    assert float(phase_floor(SIGMA, END, variance)) == pytest.approx(1.1805555556, abs=1e-10)
    assert float(phase_floor(SIGMA, 0.0, STD**2)) == pytest.approx(0.625, abs=1e-12)
    end = 0.875
    sigma = shift_sigma(torch.tensor([0.52, 0.6, 0.75, 0.98], dtype=torch.float64), 7.0)
    spread = (1 - end) ** 2 + end**2
    assert phase_floor(sigma, end, spread).tolist() == pytest.approx([425.62, 106.99, 61.60, 50.31], abs=5e-3)
    _, c_n = coefficients(sigma, end)
    assert c_n.tolist() == pytest.approx([19.4, 7.6026, 3.5355, 1.1431], abs=5e-4)
    weighted = unit_floor_weight(sigma, end) * phase_floor(sigma, end, spread)
    torch.testing.assert_close(weighted, torch.ones_like(sigma))
    assert warp((1000.0, 750.0, 500.0, 250.0), 7.0) == pytest.approx((1000, 954.5455, 875, 700), abs=1e-4)


def test_a_phase_that_ends_at_the_data_is_the_usual_one():
    torch.manual_seed(0)
    x_0, n = torch.randn(2, 4, 1, 2, 2, 2, dtype=torch.float64)
    sigma = torch.rand(4, dtype=torch.float64)
    torch.testing.assert_close(phase_target(x_0, n, sigma, 0.0), velocity(x_0, n), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(renoise(x_0, n, torch.zeros_like(sigma), sigma), add_noise(x_0, n, sigma))


@pytest.mark.parametrize(("sigma", "shift", "raw"), [(0.875, 7.0, 500), (0.9, 9.0, 500), (0.8751, 7.0, 501)])
def test_the_raw_index_of_a_level_is_at_or_above_it(sigma, shift, raw):
    assert raw_index(sigma, shift) == raw
    above, below = (shift_sigma(i / 1000, shift) for i in (raw, raw - 1))
    assert above >= sigma - 1e-9 and below < sigma


def test_levels_stay_in_their_window():
    u = torch.tensor([0.0, 0.5, 1 - 2**-24])
    sigma = phase_sigma(u, 7.0, (520, 980))
    torch.testing.assert_close(sigma, shift_sigma(torch.tensor([0.520, 0.750, 0.979]), 7.0))
