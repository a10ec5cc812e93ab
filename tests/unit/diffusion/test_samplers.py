import pytest
import torch

from ray_distill.diffusion.samplers import by_level, denoise, sample, shared_first
from ray_distill.diffusion.timesteps import euler_timesteps
from ray_distill.types import Experts, Prediction, Sampler
from tests.unit.toys import Gaussian, column

MEAN, STD = 2.0, 0.5
X_1 = torch.full((1, 1, 1, 1, 1), 1.3, dtype=torch.float64)


def variance(sigma):
    return (1 - sigma) ** 2 * STD**2 + sigma**2


def no_noise(i):
    raise AssertionError("ode draws no noise")


@pytest.mark.parametrize(
    ("steps", "shift", "error"),
    [(50, 1, -0.018984), (100, 1, -0.009561), (200, 1, -0.004798), (50, 5, -0.055705), (100, 5, -0.028413)],
)
def test_euler_errors_against_the_exact_flow(steps, shift, error):
    """Oracle 9: the flow of N(2, .5^2) takes 1.3 at sigma = 1 to 2.65."""
    x_0 = sample(Gaussian(MEAN, STD), Sampler(euler_timesteps(steps, shift), "ode"), X_1, {}, noise=no_noise)
    assert x_0.item() - 2.65 == pytest.approx(error, abs=1e-6)


def test_denoise_in_two_parts_is_denoise_in_one():
    recipe = Sampler(euler_timesteps(200), "ode")
    model = Gaussian(MEAN, STD)
    half = denoise(model, recipe, X_1, {}, None, no_noise, 0, 100)
    assert half.item() == pytest.approx(1.7267220927, abs=5e-3)  # the exact x at sigma = 0.5
    whole = sample(model, recipe, X_1, {}, noise=no_noise)
    assert torch.equal(denoise(model, recipe, half, {}, None, no_noise, 100, 200), whole)
    assert denoise(model, recipe, X_1, {}, None, no_noise, 0, 0) is X_1


def test_two_experts_share_the_levels():
    """From the boundary up one predicts, below it the other; what a call brings along is handed on."""
    seen = []

    def expert(name):
        def denoise(x_t, sigma, cond, **causal):
            seen.append((name, round(1000 * sigma[0].item()), causal))
            return Prediction(x_t)

        return denoise

    experts = Experts("semantic", "detail", 750.0)
    routed = by_level(experts, {"semantic": expert("semantic"), "detail": expert("detail")})
    sample(routed, Sampler((1000.0, 750.0, 740.0, 300.0), "ode", experts=experts), X_1, {}, noise=no_noise)
    levels = [("semantic", 1000), ("semantic", 750), ("detail", 740), ("detail", 300)]
    assert seen == [(*level, {}) for level in levels]
    routed(X_1, torch.tensor([0.2]), {}, chunks=(1,))
    assert seen[-1] == ("detail", 200, {"chunks": (1,)})


def exact_map(x_t, sigma, cond):
    """The student at its optimum: its x_0-prediction is the end of the flow, so x_0 ~ N(m, s^2) from any sigma."""
    s = column(sigma)
    x_0 = MEAN + STD / variance(s).sqrt() * (x_t - (1 - s) * MEAN)
    return Prediction((x_t - x_0) / s)


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_sde_marginals(stop):
    """Re-noising the exact x_0 gives the exact marginal N((1 - sigma) m, D(sigma)) at each step."""
    recipe = Sampler((1000.0, 757.0, 522.0), "sde")
    n, sigma = 100_000, [0.757, 0.522, 0.0][stop - 1]
    draws = torch.randn(3, 1, 1, 1, 1, n, generator=torch.Generator().manual_seed(0))
    called = []

    def noise(i):
        called.append(i)
        return draws[1 + i]

    x = denoise(exact_map, recipe, draws[0], {}, None, noise, 0, stop).double()
    assert called == [0, 1][:stop]
    spread = variance(sigma) ** 0.5
    assert abs(x.mean() - (1 - sigma) * MEAN) < 4 * spread / n**0.5
    assert abs(x.std() - spread) < 4 * spread / (2 * n) ** 0.5


def test_sde_with_the_posterior_mean_loses_variance_by_the_closed_form():
    """E[x_0 | x_t] has variance ((1 - sigma) s^2)^2 / D at each step, whatever came before."""
    n, sigma = 100_000, 0.5
    draws = torch.randn(2, 1, 1, 1, 1, n, generator=torch.Generator().manual_seed(0))
    x_0 = sample(Gaussian(MEAN, STD), Sampler((1000.0, 500.0), "sde"), draws[0], {}, noise=lambda i: draws[1])
    # Step 1 gives the mean; x_t = (1 - sigma) m + sigma eps; then slope^2 sigma^2.
    wanted = ((1 - sigma) * STD**2 / variance(sigma) * sigma) ** 2
    assert abs(x_0.var() - wanted) < 4 * wanted * (2 / n) ** 0.5


def test_guidance_of_the_recipe_is_used_and_counted():
    recipe = Sampler(euler_timesteps(8), "ode", guidance_scale=3.0)
    calls = []

    def model(x_t, sigma, cond):
        calls.append(len(x_t))
        return Gaussian()(x_t, sigma, cond)

    one, null = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    guided = sample(model, recipe, X_1, {"text": one}, {"text": null}, noise=no_noise)
    # Guidance between equal spreads is the Gaussian of the guided mean, 0 + 3 (1 - 0).
    direct = sample(Gaussian(), Sampler(recipe.timesteps, "ode"), X_1, {"text": 3 * one}, noise=no_noise)
    assert guided.item() == pytest.approx(direct.item(), abs=1e-6)
    assert sum(calls) == recipe.nfe == 16 and Sampler(recipe.timesteps, "ode").nfe == 8


def test_sampling_builds_no_graph():
    mean = torch.tensor(2.0, requires_grad=True)
    recipe = Sampler(euler_timesteps(4), "ode")
    assert not sample(Gaussian(mean, STD), recipe, X_1, {}, noise=no_noise).requires_grad


def test_samplers_of_one_noise_share_their_first_call():
    """Bit for bit: three guided ones, an unguided one, and one that begins lower."""
    calls, x_T = [], torch.randn(3, 1, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    cond, uncond = {"text": torch.ones(3, 1, 1)}, {"text": torch.zeros(3, 1, 1)}

    def network(x_t, sigma, cond, **causal):
        calls.append((round(1000 * sigma[0].item()), len(x_t)))
        return Gaussian()(x_t, sigma, cond)

    recipes = [Sampler(euler_timesteps(3, shift), "ode", scale) for shift, scale in ((1, 2), (3, 2), (5, 3), (3, 1))]
    recipes.append(Sampler((750.0, 300.0), "ode", 2.0))
    alone = [sample(network, recipe, x_T, cond, uncond, noise=no_noise) for recipe in recipes]
    assert len(calls) == 14
    calls.clear()
    see = shared_first(network, 1000.0)
    together = [sample(see, recipe, x_T, cond, uncond, noise=no_noise) for recipe in recipes]
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert len(calls) == 12 and sorted(call for call in calls if call[0] == 1000) == [(1000, 3), (1000, 6)]
