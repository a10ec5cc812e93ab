import pytest
import torch

from ray_distill.diffusion.flow import add_noise, eps_from_velocity, x_0_from_velocity
from ray_distill.diffusion.losses import (
    dmd_gradient,
    finite_samples,
    frame_differences,
    gaussian_floor,
    mse,
    pseudo_huber,
    sample_mse,
    score_weight,
    surrogate,
)
from tests.unit.toys import Gaussian

A, M, S = 0.0, 2.0, 0.5


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def scores(sigma, scale=1.0, a=A):
    """x, and both scores' x_0 at a noised x: fake N(a, s^2), real N(m, s^2), all in units of ``scale``."""
    x = scale * (a + S * draw(3, 1, 2, 4, 4))
    level = torch.full((3,), sigma, dtype=torch.float64)
    x_s = add_noise(x / scale, draw(3, 1, 2, 4, 4, seed=1), level)
    mu = (scale * x_0_from_velocity(x_s, Gaussian(m, S)(x_s, level, {}).velocity, level) for m in (a, M))
    return x, *mu


@pytest.mark.parametrize(("sigma", "raw"), [(0.1, -0.0941176471), (0.5, -1.6), (0.9, -1.9938461538)])
def test_gradient_of_two_gaussians(sigma, raw):
    """Oracle 2: (a - m) sigma^2 / D for every x; and it is (sigma / (1 - sigma))^2 dKL / da."""
    x, mu_fake, mu_real = scores(sigma)
    g, n = dmd_gradient(x, mu_fake, mu_real)
    torch.testing.assert_close(n, (x - mu_real).abs().mean((1, 2, 3, 4)), atol=1e-12, rtol=0)
    torch.testing.assert_close(g * n.reshape(-1, 1, 1, 1, 1), torch.full_like(g, raw), atol=1e-9, rtol=0)
    variance = (1 - sigma) ** 2 * S**2 + sigma**2
    a = torch.tensor(A, dtype=torch.float64, requires_grad=True)
    ((1 - sigma) ** 2 * (a - M) ** 2 / (2 * variance)).backward()
    assert (sigma / (1 - sigma)) ** 2 * a.grad.item() == pytest.approx(raw, abs=1e-9)


@pytest.mark.parametrize(("a", "towards"), [(0.0, 1), (5.0, -1)])
def test_descent_moves_towards_the_teacher(a, towards):
    g, _ = dmd_gradient(*scores(0.5, a=a))
    assert ((-g * towards) > 0).all()


def test_the_normalised_gradient_has_no_scale():
    one, _ = dmd_gradient(*scores(0.5))
    for scale in (1e-2, 37.0):
        torch.testing.assert_close(dmd_gradient(*scores(0.5, scale))[0], one, atol=1e-10, rtol=0)


def test_the_normaliser_is_per_sample():
    x, mu_fake, mu_real = scores(0.5)
    whole, _ = dmd_gradient(x, mu_fake, mu_real)
    for b in range(3):
        alone, _ = dmd_gradient(x[b : b + 1], mu_fake[b : b + 1], mu_real[b : b + 1])
        assert torch.equal(whole[b : b + 1], alone)


def test_a_vanishing_normaliser_is_clamped():
    x = draw(2, 1, 1, 2, 2)
    g, n = dmd_gradient(x, x + 1e-3, x, min_norm=1e-5)
    assert n.tolist() == [1e-5, 1e-5]
    torch.testing.assert_close(g, torch.full_like(g, 100.0))


def test_bf16_scores_are_subtracted_in_fp32():
    x = draw(1, 1, 1, 2, 2, dtype=torch.bfloat16)
    g, n = dmd_gradient(x, x, 0.5 * x)
    assert g.dtype == n.dtype == torch.float32


def test_equal_scores_give_exactly_nothing():
    """Oracle 3."""
    x, _, mu = scores(0.5)
    x.requires_grad_()
    g, _ = dmd_gradient(x.detach(), mu, mu.clone())
    loss = surrogate(x, g)
    loss.backward()
    assert not g.any() and loss.item() == 0.0 and not x.grad.any()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_surrogate(dtype, tolerance):
    """Oracle 4: the value is 0.5 mean g^2, the gradient g / N with N = B C T H W."""
    x, g = draw(3, 4, 2, 4, 4, dtype=dtype).requires_grad_(), draw(3, 4, 2, 4, 4, dtype=dtype, seed=1)
    loss = surrogate(x, g)
    loss.backward()
    torch.testing.assert_close(x.grad, g / g.numel(), atol=tolerance, rtol=0)
    torch.testing.assert_close(loss.detach(), 0.5 * g.square().mean(), atol=tolerance, rtol=0)


@pytest.mark.parametrize("shape", [(3, 1, 1, 1, 1), (1, 1, 2, 1, 1), (3, 4, 2, 4, 4)])
def test_surrogate_under_a_mask(shape):
    """Oracle 4: g m / N_m with N_m the number of true elements, and nothing outside."""
    x, g = draw(3, 4, 2, 4, 4).requires_grad_(), draw(3, 4, 2, 4, 4, seed=1)
    mask = draw(*shape, seed=2) > 0
    loss = surrogate(x, g, mask)
    loss.backward()
    m = mask.expand_as(x)
    assert 0 < m.sum() < m.numel()
    torch.testing.assert_close(x.grad, g * m / m.sum(), atol=1e-12, rtol=0)
    torch.testing.assert_close(loss.detach(), 0.5 * g[m].square().mean(), atol=1e-12, rtol=0)
    assert not x.grad[~m].any()


def test_surrogate_of_a_bf16_student_is_computed_in_the_gradients_dtype():
    x = (10 + draw(1, 1, 1, 4, 4)).bfloat16().requires_grad_()
    g = torch.full((1, 1, 1, 4, 4), 1e-3)  # far below bf16's step of 2^-4 at 10
    surrogate(x, g).backward()
    torch.testing.assert_close(x.grad.float(), g / 16, rtol=1e-2, atol=0)


def test_mse_is_in_fp32():
    a = torch.full((1000,), 1.0, dtype=torch.bfloat16)
    assert mse(a, a + 0.5).dtype == torch.float32 and mse(a, a + 0.5) == 0.25
    assert mse(a.double(), a).dtype == torch.float64


@pytest.mark.parametrize("sigma", [0.1, 0.5, 0.9])
def test_targets_of_the_fake_score_are_one_loss_with_a_weight(sigma):
    """Oracle 7: x_0 / flow = sigma^2 and eps / flow = (1 - sigma)^2 of any prediction, each computed as named."""
    x, eps, v = (draw(3, 1, 2, 4, 4, seed=seed) for seed in range(3))
    level = torch.full((3,), sigma, dtype=torch.float64)
    x_s, flow = add_noise(x, eps, level), sample_mse(v, eps - x)
    exact = {
        "velocity": flow,
        "x_0": sample_mse(x_0_from_velocity(x_s, v, level), x),
        "eps": sample_mse(eps_from_velocity(x_s, v, level), eps),
    }
    for target, wanted in exact.items():
        torch.testing.assert_close(score_weight(level, target) * flow, wanted, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("sigma", "floor"), [(0.1, 1.17647), (0.5, 0.8), (0.9, 0.307692)])
def test_floor_of_the_flow_loss(sigma, floor):
    """Oracle 7, with a sample of exactly that spread."""
    x = torch.tensor([1.5, 2.5, 1.5, 2.5], dtype=torch.float64).reshape(2, 1, 1, 1, 2)
    level = torch.full((2,), sigma, dtype=torch.float64)
    assert gaussian_floor(x, level).tolist() == pytest.approx([floor] * 2, abs=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_finite_samples(bad):
    a, b = torch.zeros(4, 1, 1, 2, 2), torch.zeros(4, 1, 1, 2, 2)
    a[1, 0, 0, 1, 1], b[3, 0, 0, 0, 0] = bad, bad
    assert finite_samples(a, b).tolist() == [True, False, True, False]


def test_pseudo_huber():
    """Oracle 16; the digits are kept in fp32, too."""
    zeros = torch.zeros(2, 1, 1, 2, 2)
    assert torch.equal(pseudo_huber(zeros, zeros, 1e-3), torch.zeros(2))
    for dtype in (torch.float32, torch.float64):
        far = zeros.to(dtype) + torch.tensor([0.003, 1e-6], dtype=dtype).reshape(2, 1, 1, 1, 1)
        wanted = torch.tensor([0.00216227766, 1e-12 / (2e-3)], dtype=dtype)
        torch.testing.assert_close(pseudo_huber(far, zeros, 1e-3), wanted, rtol=1e-6, atol=0)


def test_frame_differences():
    x = torch.arange(5.0).reshape(1, 1, 5, 1, 1) ** 2
    assert frame_differences(x, 3).flatten().tolist() == [9, 15]
    assert frame_differences(x, 5).numel() == 0
