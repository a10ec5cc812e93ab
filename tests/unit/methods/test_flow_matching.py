import pytest
import torch

from ray_distill.diffusion.timesteps import euler_timesteps
from ray_distill.methods import FlowMatching
from ray_distill.methods.flow_matching import drop
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.rng import StatelessRng
from ray_distill.types import Prediction
from tests.tiny_wan import SHAPE, TEXT, tiny_wan
from tests.unit.toys import Gaussian, batch

RNG = StatelessRng(0)
STEADY = FlowMatching(prompt_dropout=0.0)


def test_one_data_point_is_learnt_exactly():
    """All paths end at one point, so the velocity is known from x_t: the loss has no floor."""
    point = torch.full((64, 1, 2, 4, 4), 0.7, dtype=torch.float64)
    data = batch(range(64), (1, 2, 4, 4), x_0=point)

    def exact(x_t, sigma, cond):
        return Prediction((x_t - 0.7) / sigma.reshape(-1, 1, 1, 1, 1))

    assert STEADY.loss({"student": exact}, data, RNG, {}).loss < 1e-10
    assert STEADY.loss({"student": lambda x, s, c: Prediction(0 * x)}, data, RNG, {}).loss > 1


def test_gaussian_data_has_its_floor():
    """The exact velocity of N(2, .5^2) leaves mean s^2 / D(sigma), over the levels that the network was shown."""
    x_0 = 2 + 0.5 * RNG.noise("data", torch.arange(64), (1, 1, 40, 40))
    floors = []

    def exact(x_t, sigma, cond):
        floors.append((0.25 / ((1 - sigma) ** 2 * 0.25 + sigma**2)).mean())
        return Gaussian(2.0, 0.5)(x_t, sigma, cond)

    loss = STEADY.loss({"student": exact}, batch(range(64), (1, 1, 40, 40), x_0=x_0), RNG, {}).loss
    assert loss.item() == pytest.approx(floors[0].item(), abs=4 * floors[0].item() * (2 / x_0.numel()) ** 0.5)


def test_levels_are_shifted():
    seen = []

    def student(x_t, sigma, cond):
        seen.append(sigma)
        return Prediction(x_t)

    n = 3000
    STEADY.loss({"student": student}, batch(range(n), (1, 1, 1, 1), x_0=torch.zeros(n, 1, 1, 1, 1)), RNG, {})
    assert seen[0].mean().item() == pytest.approx(0.676041, abs=4 * 0.25 / n**0.5)  # oracle 13, shift 3


def dropped(step, n, rate=0.1):
    seen = []

    def student(x_t, sigma, cond):
        seen.append(cond["text"])
        return Prediction(x_t)

    data = batch(
        range(n),
        (1, 1, 1, 1),
        x_0=torch.zeros(n, 1, 1, 1, 1),
        cond={"text": torch.ones(n, 3, 2)},
        uncond={"text": torch.zeros(n, 3, 2)},
    )
    FlowMatching(prompt_dropout=rate).loss({"student": student}, data, RNG.at(step), {})
    return seen[0]


def test_prompts_are_dropped_whole_at_the_rate():
    n = 4000
    text = dropped(0, n)
    assert torch.equal(text, text[:, :1, :1].expand_as(text))
    assert abs((text[:, 0, 0] == 0).float().mean() - 0.1) < 4 * (0.1 * 0.9 / n) ** 0.5
    assert torch.equal(text[:100], dropped(0, 100)) and not torch.equal(text[:100], dropped(1, 100))
    assert dropped(0, 50, rate=0.0).all() and not dropped(0, 50, rate=1.0).any()


def test_drop_takes_each_samples_own():
    cond, uncond = {"text": torch.randn(3, 2, 4)}, {"text": torch.randn(3, 2, 4)}
    text = drop(cond, uncond, torch.tensor([True, False, True]))["text"]
    assert torch.equal(text, torch.stack([uncond["text"][0], cond["text"][1], uncond["text"][2]]))


def test_gradients_reach_the_network():
    network, ids = tiny_wan(0), torch.arange(2)
    text = RNG.noise("text", ids, TEXT)
    data = batch(
        ids, SHAPE, x_0=RNG.noise("x_0", ids, SHAPE), cond={"text": text}, uncond={"text": torch.zeros_like(text)}
    )
    (update,) = FlowMatching().updates(0)
    assert update.roles == ("student",) and FlowMatching.uses_latents
    update.loss({"student": WanDenoiser(network)}, data, RNG, {}).loss.backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(name.endswith("to_k.bias") for name in without)  # softmax does not see them


def test_sampler():
    recipe = FlowMatching(shift=5.0, sampling_steps=4, sampling_guidance=2.5).sampler()
    assert recipe.timesteps == euler_timesteps(4, 5.0) and recipe.kind == "ode" and recipe.nfe == 8
