import pytest
import torch

from ray_distill.diffusion.flow import add_noise, eps_from_velocity, euler_step, renoise, velocity, x_0_from_velocity
from tests.unit.toys import Gaussian, Mixture

SIGMA = torch.tensor([0.0, 0.02, 0.5, 0.98, 1.0], dtype=torch.float64)


def pair(seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(2, 5, 2, 3, 4, 4, generator=generator, dtype=torch.float64)
    return 2 + 0.5 * draw[0], draw[1]


def test_round_trips():
    x_0, eps = pair()
    x_t, v = add_noise(x_0, eps, SIGMA), velocity(x_0, eps)
    torch.testing.assert_close(x_0_from_velocity(x_t, v, SIGMA), x_0, atol=1e-12, rtol=0)
    torch.testing.assert_close(eps_from_velocity(x_t, v, SIGMA), eps, atol=1e-12, rtol=0)
    there = SIGMA.flip(0)
    torch.testing.assert_close(euler_step(x_t, v, SIGMA, there), add_noise(x_0, eps, there), atol=1e-12, rtol=0)


def test_ends_are_data_and_noise():
    x_0, eps = pair()
    x_t = add_noise(x_0, eps, SIGMA)
    assert torch.equal(x_t[0], x_0[0]) and torch.equal(x_t[-1], eps[-1])


def test_gaussian_velocity():
    """Oracle 1: m = 2, s = 0.5, sigma = 0.5."""
    x_t, sigma = torch.full((1, 1, 1, 1, 1), 1.5, dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    v = Gaussian(2.0, 0.5)(x_t, sigma, {}).velocity
    assert v.item() == pytest.approx(-1.4, abs=1e-12)
    assert x_0_from_velocity(x_t, v, sigma).item() == pytest.approx(2.2, abs=1e-12)


@pytest.mark.parametrize(
    ("x", "sigma", "wanted"), [(0.0, 0.5, 0.0), (0.5, 0.5, 2.8125600793), (0.5, 0.9, 0.5536352748), (2.7, 0.1, 3.0)]
)
def test_mixture_posterior_mean(x, sigma, wanted):
    """Oracle 1: two modes at +-3, s = 0.3."""
    x_t, level = torch.full((1, 1, 1, 1, 1), x, dtype=torch.float64), torch.tensor([sigma], dtype=torch.float64)
    v = Mixture((-3.0, 3.0), 0.3)(x_t, level, {}).velocity
    assert x_0_from_velocity(x_t, v, level).item() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 0.9])
def test_regression_on_the_path_finds_the_gaussian_velocity(sigma):
    """Least squares of velocity(x_0, eps) on add_noise(x_0, eps) is the closed form: both share one convention."""
    n = 200_000
    draw = torch.randn(2, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x_0, eps = 2 + 0.5 * draw[0], draw[1]
    level = torch.full((n,), sigma, dtype=torch.float64)
    x_t, v = add_noise(x_0, eps, level), velocity(x_0, eps)
    design = torch.stack([torch.ones(n, dtype=torch.float64), x_t], 1)
    at_0, slope = torch.linalg.lstsq(design, v[:, None]).solution.flatten()
    exact = Gaussian(2.0, 0.5)
    points = torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1, 1)
    wanted = exact(points, level[:2], {}).velocity.flatten()
    variance = (1 - sigma) ** 2 * 0.25 + sigma**2
    residual = (0.25 / variance) ** 0.5  # oracle 7: the floor of the flow loss is s^2 / D
    assert abs(slope - (wanted[1] - wanted[0])) < 4 * residual / (n * variance) ** 0.5
    assert abs(at_0 + slope * x_t.mean() - (wanted[0] + (wanted[1] - wanted[0]) * x_t.mean())) < 4 * residual / n**0.5
    assert abs((v - at_0 - slope * x_t).square().mean() - residual**2) < 4 * residual**2 * (2 / n) ** 0.5


def test_bf16_keeps_its_dtype_and_fp32_its_bits():
    x_0, eps = (t.bfloat16() for t in pair())
    sigma = SIGMA.float()
    x_t = add_noise(x_0, eps, sigma)
    assert x_t.dtype == torch.bfloat16
    assert torch.equal(x_t, add_noise(x_0.float(), eps.float(), sigma).bfloat16())  # rounded once, at the end


def test_noise_from_one_level_to_a_higher_one():
    """Oracle 17: the marginal there, exactly; DCM's bridge has 0.213 in the place of the variance 0.36."""
    s, t = torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.6], dtype=torch.float64)
    one, zero = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, 1, dtype=torch.float64)
    a, b = renoise(one, zero, s, t).item(), renoise(zero, one, s, t).item()
    assert a == pytest.approx(0.5714285714, abs=1e-10) and b == pytest.approx(0.5749889085, abs=1e-10)
    assert (a * 0.3) ** 2 + b**2 == pytest.approx(0.36, abs=1e-12)
    assert a * (1 - 0.3) == pytest.approx(1 - 0.6, abs=1e-12)
    assert renoise(one, zero, 0 * s, t).item() == pytest.approx(0.4) and renoise(zero, one, 0 * s, t).item() == 0.6
    assert torch.equal(renoise(one, one, s, s), one)
