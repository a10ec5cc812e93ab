"""Heads on hidden features: their places, their logits and their random weights."""

import pytest
import torch

from ray_distill.models import family
from ray_distill.models.heads import FeatureDiscriminator, FeatureHeads, head_blocks, random_heads
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.rng import StatelessRng
from ray_distill.types import Heads
from tests.tiny_wan import SHAPE, TEXT, tiny_wan

WAN_1_3B = {"num_layers": 30, "num_attention_heads": 12, "attention_head_dim": 128}


def every_second(count):
    return range(1, count, 2)


def test_blocks_and_width_are_the_models_own():
    assert head_blocks("d", Heads("teacher", every_second), "wan", WAN_1_3B) == (tuple(range(1, 30, 2)), (1536,))
    network = tiny_wan(0)
    assert family("wan").features(network.config) == (len(network.blocks), (network.config.attention_head_dim * 2,))


@pytest.mark.parametrize("blocks", [(), (2,), (-1, 0)])
def test_a_block_that_is_not_there_is_named(blocks):
    with pytest.raises(ValueError, match=r"d: its heads ask for blocks .* of teacher, which has blocks 0 to 1"):
        head_blocks("d", Heads("teacher", lambda count: blocks), "wan", tiny_wan(0).config)


def test_a_logit_for_each_head_and_token_of_a_real_network():
    """Gradients reach every tensor of the heads, and what they look at."""
    rng, ids = StatelessRng(0), torch.arange(3)
    x_t, cond = rng.noise("x", ids, SHAPE).requires_grad_(), {"text": rng.noise("text", ids, TEXT)}
    blocks, widths = head_blocks("d", Heads("teacher", lambda count: range(count)), "wan", tiny_wan(0).config)
    network = random_heads(len(blocks), widths, seed=0)
    judge = FeatureDiscriminator(network, torch.float32, blocks)
    features = WanDenoiser(tiny_wan(0))(x_t, torch.full((3,), 0.5), cond, features=judge.blocks).features
    logits = judge(features)
    assert logits.shape == (3, 2, 3 * 2 * 2) and logits.dtype == torch.float32
    logits.square().mean().backward()
    assert all(p.grad.any() for p in network.parameters()) and x_t.grad.any()


def test_each_head_has_features_of_its_own_and_a_sample_does_not_see_its_batch():
    network = random_heads(2, (24,), seed=0)
    x = StatelessRng(0).noise("x", torch.arange(3), (12, 24))
    with torch.no_grad():
        logits = network(x, 2 * x.flip(1))
        alone = network(x[1:2], 2 * x[1:2].flip(1))
    torch.testing.assert_close(alone, logits[1:2], atol=1e-6, rtol=0)
    with torch.no_grad():
        assert torch.equal(logits[:, 0], network(x, 0 * x)[:, 0])
    with pytest.raises(ValueError, match="argument"):
        network(x)


def test_the_seed_alone_draws_them():
    torch.manual_seed(5)
    one, again, other = (random_heads(2, (8,), seed) for seed in (0, 0, 1))
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))  # the surrounding stream is untouched
    same = [torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


@torch.no_grad()
def test_bf16_heads_stay_near_the_fp32_ones_and_any_width_has_groups():
    x = StatelessRng(0).noise("x", torch.arange(2), (6, 24))
    exact = FeatureDiscriminator(random_heads(1, (24,), 0), torch.float32, (0,))([x])
    rough = FeatureDiscriminator(random_heads(1, (24,), 0).bfloat16(), torch.bfloat16, (0,))([x])
    assert rough.dtype == torch.float32 and 0 < (exact - rough).abs().max() < 0.1
    for width in (7, 24, 1536):
        assert FeatureHeads(1, (width,))(torch.zeros(1, 2, width)).shape == (1, 1, 2)
