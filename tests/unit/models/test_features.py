"""Hidden features of a real (tiny) Wan, against its own blocks called by hand."""

import pytest
import torch

from ray_distill.models.wan.network import WanDenoiser
from ray_distill.rng import StatelessRng
from ray_distill.types import Cache
from tests.tiny_wan import SHAPE, TEXT, tiny_wan

SIGMA = torch.tensor([0.757, 1.0])
TOKENS, WIDTH = 3 * 2 * 2, 24


def inputs():
    rng, ids = StatelessRng(0), torch.arange(2)
    return rng.noise("x", ids, SHAPE), SIGMA, {"text": rng.noise("text", ids, TEXT)}


def by_hand(network, x_t, sigma, cond):
    """The output of each block, by the layers of diffusers' forward."""
    x = network.patch_embedding(x_t).flatten(2).transpose(1, 2)
    _, modulation, text, _ = network.condition_embedder(1000 * sigma, cond["text"], None)
    out = []
    for block in network.blocks:
        x = block(x, text, modulation.unflatten(1, (6, -1)), network.rope(x_t))
        out.append(x)
    return out


@torch.no_grad()
def test_features_are_what_the_blocks_return():
    network = tiny_wan(0)
    first, second = by_hand(network, *inputs())
    plain = WanDenoiser(network)(*inputs())
    tapped = WanDenoiser(network)(*inputs(), features=(1, 0))
    assert plain.features == () and torch.equal(tapped.velocity, plain.velocity)
    assert torch.equal(tapped.features[0], second) and torch.equal(tapped.features[1], first)
    assert first.shape == (2, TOKENS, WIDTH) and not torch.equal(first, second)
    assert not any(block._forward_hooks for block in network.blocks)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_flow_through_features_with_and_without_checkpointing(checkpointing):
    """To the input, and to the blocks up to the one that was tapped; a backward adds nothing to what was taken."""
    x_t, sigma, cond = inputs()
    x_t.requires_grad_()
    network = tiny_wan(0).train()
    by_hand(network, x_t, sigma, cond)[0].square().mean().backward()
    wanted = x_t.grad.clone(), [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    x_t.grad = None
    network.zero_grad()
    if checkpointing:
        network.enable_gradient_checkpointing()
    (first,) = WanDenoiser(network)(x_t, sigma, cond, features=(0,)).features
    first.square().mean().backward()
    torch.testing.assert_close(x_t.grad, wanted[0], rtol=1e-5, atol=1e-9)
    for p, grad in zip(network.parameters(), wanted[1], strict=True):
        assert (p.grad is None) == (grad is None)
        if grad is not None:
            torch.testing.assert_close(p.grad, grad, rtol=1e-5, atol=1e-9)
    assert all(p.grad is None for p in network.blocks[1].parameters())


@torch.no_grad()
def test_features_of_causal_calls():
    """A chunk's features with a cache are those of the masked forward."""
    x_t, sigma, cond = inputs()
    model, cache = WanDenoiser(tiny_wan(0)), Cache()
    (whole,) = model(x_t, sigma, cond, chunks=(1, 2), features=(1,)).features
    parts = []
    for where in (slice(0, 1), slice(1, 3)):
        parts.append(model(x_t[:, :, where], sigma, cond, cache=cache, features=(1,)).features[0])
        model(x_t[:, :, where], sigma, cond, cache=cache, remember=True)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)


@torch.no_grad()
def test_features_keep_the_networks_dtype():
    prediction = WanDenoiser(tiny_wan(0).bfloat16(), torch.bfloat16)(*inputs(), features=(1,))
    assert prediction.features[0].dtype == torch.bfloat16 and prediction.velocity.dtype == torch.float32


@pytest.mark.parametrize("blocks", [(2,), (0, -1)])
def test_a_block_that_is_not_there_is_named(blocks):
    with pytest.raises(ValueError, match=r"features = .*the network has blocks 0 to 1, and no"):
        WanDenoiser(tiny_wan(0))(*inputs(), features=blocks)


@torch.no_grad()
@pytest.mark.parametrize("checkpointing", [False, True])
def test_readings_are_what_the_last_layers_make_of_a_feature(checkpointing):
    """Of the last block that is the velocity itself, patch by patch; of another what it would be as the last."""
    network = tiny_wan(0).train()
    plain = WanDenoiser(network)(*inputs())
    if checkpointing:
        network.enable_gradient_checkpointing()
    with torch.enable_grad():
        seen = WanDenoiser(network)(*inputs(), features=(1, 0), read=True)
    assert plain.readings == () and len(seen.readings) == 2
    torch.testing.assert_close(seen.velocity, plain.velocity, rtol=0, atol=1e-6)
    last = seen.readings[0].unflatten(1, (3, 2, 2)).unflatten(-1, (1, 2, 2, 4))  # [B, t, h, w, 1, 2, 2, C]
    patches = last.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(2, 4, 3, 4, 4)
    torch.testing.assert_close(patches, plain.velocity, rtol=0, atol=1e-6)
    table, (temb, *_) = network.scale_shift_table, network.condition_embedder(1000 * SIGMA, inputs()[2]["text"], None)
    shift, scale = (table + temb.unsqueeze(1)).chunk(2, dim=1)
    by_hand = network.proj_out(network.norm_out(seen.features[1]) * (1 + scale) + shift)
    torch.testing.assert_close(seen.readings[1], by_hand, rtol=0, atol=1e-6)
    assert not network.norm_out._forward_pre_hooks and not network.proj_out._forward_hooks


def test_gradients_flow_through_readings():
    x_t, sigma, cond = inputs()
    x_t.requires_grad_()
    WanDenoiser(tiny_wan(0))(x_t, sigma, cond, features=(0,), read=True).readings[0].square().mean().backward()
    assert x_t.grad is not None and x_t.grad.any()
