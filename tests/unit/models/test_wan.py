import pytest
import torch

from ray_distill.models import family
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.rng import StatelessRng
from tests.tiny_wan import SHAPE, TEXT, tiny_wan

IDS = torch.arange(2)
SIGMA = torch.tensor([0.757, 1.0])


def inputs():
    rng = StatelessRng(0)
    return rng.noise("x", IDS, SHAPE), SIGMA, {"text": rng.noise("text", IDS, TEXT)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_the_network_is_given(dtype):
    seen = {}

    def network(**kwargs):
        seen.update(kwargs)
        return (2 * kwargs["hidden_states"],)

    x_t, sigma, cond = inputs()
    velocity = WanDenoiser(network, dtype)(x_t, sigma, cond).velocity
    assert seen["hidden_states"].dtype == seen["encoder_hidden_states"].dtype == dtype
    assert torch.equal(seen["encoder_hidden_states"], cond["text"].to(dtype))
    assert seen["timestep"].tolist() == pytest.approx([757.0, 1000.0])  # not rounded to bf16
    assert seen["return_dict"] is False
    assert velocity.dtype == torch.float32 and torch.equal(velocity, 2 * x_t.to(dtype).float())


def test_a_bf16_network_stays_near_the_fp32_one():
    x_t, sigma, cond = inputs()
    with torch.no_grad():
        exact = WanDenoiser(tiny_wan(0))(x_t, sigma, cond).velocity
        rough = WanDenoiser(tiny_wan(0).bfloat16(), torch.bfloat16)(x_t, sigma, cond).velocity
    assert exact.shape == rough.shape == x_t.shape and rough.dtype == torch.float32
    assert 0 < (exact - rough).abs().max() < 0.05 * exact.abs().max()


def test_the_level_and_the_text_reach_the_output():
    x_t, sigma, cond = inputs()
    model = WanDenoiser(tiny_wan(0))
    with torch.no_grad():
        base = model(x_t, sigma, cond).velocity
        assert not torch.allclose(base, model(x_t, sigma - 0.3, cond).velocity)
        assert not torch.allclose(base, model(x_t, sigma, {"text": 0 * cond["text"]}).velocity)


def test_a_sample_does_not_see_its_batch():
    x_t, sigma, cond = inputs()
    model = WanDenoiser(tiny_wan(0))
    with torch.no_grad():
        whole = model(x_t, sigma, cond).velocity
        alone = model(x_t[1:], sigma[1:], {"text": cond["text"][1:]}).velocity
    torch.testing.assert_close(whole[1:], alone, atol=1e-6, rtol=0)


def test_the_family_is_found_by_name():
    assert family("wan").denoiser is WanDenoiser
