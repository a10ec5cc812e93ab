import pytest
import torch

from ray_distill.diffusion.flow import x_0_from_velocity
from ray_distill.diffusion.guidance import guided_velocity, guided_x_0, standard_scale
from ray_distill.types import Prediction
from tests.unit.toys import Gaussian

C, U = {"text": torch.ones(2, 1, 1)}, {"text": torch.zeros(2, 1, 1)}
X = torch.tensor([1.5, -0.4]).reshape(2, 1, 1, 1, 1).double()
SIGMA = torch.tensor([0.5, 0.9])


def test_both_spellings():
    assert standard_scale(3.0, "std") == 3.0 and standard_scale(3.0, "extra") == 4.0
    with pytest.raises(ValueError, match="'cfg'.*std.*extra"):
        standard_scale(3.0, "cfg")


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 7.5])
def test_is_u_plus_s_times_c_minus_u_for_velocity_and_for_x_0(scale):
    model = Gaussian()
    v_c, v_u = model(X, SIGMA, C).velocity, model(X, SIGMA, U).velocity
    guided = guided_velocity(model, X, SIGMA, C, U, scale)
    torch.testing.assert_close(guided, v_u + scale * (v_c - v_u), atol=1e-12, rtol=0)
    x_c, x_u = x_0_from_velocity(X, v_c, SIGMA), x_0_from_velocity(X, v_u, SIGMA)
    torch.testing.assert_close(x_0_from_velocity(X, guided, SIGMA), x_u + scale * (x_c - x_u), atol=1e-7, rtol=0)


def test_one_is_off_and_costs_one_evaluation():
    sizes = []

    def model(x_t, sigma, cond):
        sizes.append(len(x_t))
        assert len(sigma) == len(cond["text"]) == len(x_t)
        return Gaussian()(x_t, sigma, cond)

    assert torch.equal(guided_velocity(model, X, SIGMA, C, None, 1.0), Gaussian()(X, SIGMA, C).velocity)
    guided_velocity(model, X, SIGMA, C, U, 2.0)
    assert sizes == [2, 4]


@pytest.mark.parametrize("uncond", [None, {}, {"image": U["text"]}])
def test_guidance_without_a_null_prompt_is_an_error(uncond):
    with pytest.raises(ValueError, match="needs unconditional.*negative prompt.*'text'.*standard scale of 1"):
        guided_velocity(lambda x, s, c: Prediction(x), X, SIGMA, C, uncond, 2.0)


def test_guided_x_0_and_the_gap_between_its_branches():
    mu, gap = guided_x_0(Gaussian(), X, SIGMA, C, U, 3.0)
    mu_c, mu_u = (guided_x_0(Gaussian(), X, SIGMA, prompt, None, 1.0)[0] for prompt in (C, U))
    torch.testing.assert_close(mu, mu_u + 3 * (mu_c - mu_u), atol=1e-6, rtol=0)
    torch.testing.assert_close(gap, (mu_c - mu_u).abs().mean((1, 2, 3, 4)), atol=1e-6, rtol=0)
    assert guided_x_0(Gaussian(), X, SIGMA, C, {}, 1.0)[1] is None
