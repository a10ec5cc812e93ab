"""Causal attention of a real (tiny) Wan: by one masked forward, and by chunks with a cache."""

from itertools import accumulate, pairwise

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from ray_distill.models.wan.network import WanDenoiser
from ray_distill.rng import StatelessRng
from ray_distill.types import Cache
from tests.tiny_wan import TEXT, tiny_wan

FRAMES = 7
LAYOUTS = [(1, 3, 3), (3, 3, 1), (7,), (1, 1, 1, 1, 1, 1, 1)]


def inputs(batch=3, frames=FRAMES):
    """Latents, a level for each frame, and text, all different by sample."""
    rng, ids = StatelessRng(0), torch.arange(batch)
    sigma = torch.stack([rng.uniform(f"sigma{frame}", ids) for frame in range(frames)], dim=1)
    return rng.noise("x", ids, (4, frames, 4, 6)), sigma, {"text": rng.noise("text", ids, TEXT)}


def by_cache(model, x_t, sigma, cond, layout, cache=None):
    """Predict chunk by chunk; each chunk is first predicted, then remembered."""
    cache, out = cache or Cache(), []
    for start, end in pairwise((0, *accumulate(layout))):
        chunk = x_t[:, :, start:end], sigma[:, start:end], cond
        out.append(model(*chunk, cache=cache).velocity)
        assert cache.frames == start
        with torch.no_grad():
            model(*chunk, cache=cache, remember=True)
        assert cache.frames == end
    return torch.cat(out, dim=2)


class Masked(WanAttnProcessor):
    """diffusers' own attention under a mask over all pairs of tokens."""

    def __init__(self, mask):
        super().__init__()
        self.mask = mask

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        return super().__call__(attn, hidden_states, encoder_hidden_states, self.mask, rotary_emb)


def masked(network, layout, tokens):
    number = torch.repeat_interleave(torch.arange(len(layout)), torch.tensor(layout) * tokens)
    for block in network.blocks:
        block.attn1.set_processor(Masked(number[:, None] >= number[None, :]))
    return network


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_chunks_with_a_cache_equal_the_masked_forward(layout, batch):
    """Oracle 19, against our masked forward and against diffusers' own attention under an explicit mask."""
    x_t, sigma, cond = inputs(batch)
    model = WanDenoiser(tiny_wan(0))
    full = model(x_t, sigma, cond, chunks=layout).velocity
    assert (by_cache(model, x_t, sigma, cond, layout) - full).abs().max() < 1e-5
    explicit = WanDenoiser(masked(tiny_wan(0), layout, 2 * 3))(x_t, sigma, cond).velocity
    assert (explicit - full).abs().max() < 1e-5
    # The tolerance is far from what a wrong mask makes.
    if len(layout) > 1:
        assert (model(x_t, sigma, cond).velocity - full).abs().max() > 1e-2


@torch.no_grad()
def test_a_wrong_position_or_a_lost_chunk_is_seen():
    """Planted faults: keys that stand one token aside, and a cache that forgot its first."""
    x_t, sigma, cond = inputs()
    model = WanDenoiser(tiny_wan(0))
    full = model(x_t, sigma, cond, chunks=(1, 3, 3)).velocity[:, :, 4:]
    cache = Cache()
    for start, end in ((0, 1), (1, 4)):
        model(x_t[:, :, start:end], sigma[:, start:end], cond, cache=cache, remember=True)
    turned = tuple((key.roll(1, dims=1), value) for key, value in cache.chunks[1, 4])
    for chunks, least in ((cache.chunks, 0.0), (cache.chunks | {(1, 4): turned}, 1e-3)):
        found = model(x_t[:, :, 4:], sigma[:, 4:], cond, cache=Cache(4, chunks)).velocity
        assert least <= (found - full).abs().max() < max(1e-5, 1e3 * least)
    with pytest.raises(AssertionError, match=r"the cache lacks frames \[0\]"):
        model(x_t[:, :, 4:], sigma[:, 4:], cond, cache=Cache(4, {(1, 4): cache.chunks[1, 4]}))


@torch.no_grad()
def test_one_chunk_is_the_bidirectional_network_bit_for_bit():
    x_t, sigma, cond = inputs()
    model = WanDenoiser(tiny_wan(0))
    plain = model(x_t, sigma[:, 0], cond).velocity
    assert torch.equal(plain, model(x_t, sigma[:, 0], cond, chunks=(FRAMES,)).velocity)
    assert torch.equal(plain, model(x_t, sigma[:, 0], cond, cache=Cache()).velocity)
    assert torch.equal(plain, model(x_t, sigma[:, 0], cond).velocity)  # the teacher's call after a causal one
    same = sigma[:, :1].expand(-1, FRAMES)
    torch.testing.assert_close(model(x_t, same, cond).velocity, plain, atol=1e-5, rtol=0)


def test_no_frame_sees_a_later_chunk():
    x_t, sigma, cond = inputs()
    x_t.requires_grad_()
    model = WanDenoiser(tiny_wan(0))
    for frame, sees in ((0, 1), (1, 4), (3, 4), (4, 7)):
        (grad,) = torch.autograd.grad(model(x_t, sigma, cond, chunks=(1, 3, 3)).velocity[:, :, frame].sum(), x_t)
        touched = grad.abs().amax((0, 1, 3, 4)) > 0
        assert touched.tolist() == [seen < sees for seen in range(FRAMES)]


@torch.no_grad()
def test_a_sample_does_not_see_its_batch():
    x_t, sigma, cond = inputs()
    model = WanDenoiser(tiny_wan(0))
    whole = by_cache(model, x_t, sigma, cond, (1, 3, 3))
    alone = by_cache(model, x_t[1:2], sigma[1:2], {"text": cond["text"][1:2]}, (1, 3, 3))
    torch.testing.assert_close(whole[1:2], alone, atol=1e-6, rtol=0)


def test_gradients_under_checkpointing():
    """A block that is computed again in the backward sees the past that it saw, though the cache has grown since."""
    x_t, sigma, cond = inputs()
    networks = [tiny_wan(0), tiny_wan(0)]
    networks[1].enable_gradient_checkpointing()
    for network in networks:
        by_cache(WanDenoiser(network.train()), x_t, sigma, cond, (1, 3, 3)).square().mean().backward()
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-7, rtol=1e-5)
    assert all(p.grad.any() for p in networks[0].blocks[0].attn1.parameters())


@torch.no_grad()
def test_bf16_stays_near_fp32():
    x_t, sigma, cond = inputs()
    exact = by_cache(WanDenoiser(tiny_wan(0)), x_t, sigma, cond, (1, 3, 3))
    rough = by_cache(WanDenoiser(tiny_wan(0).bfloat16(), torch.bfloat16), x_t, sigma, cond, (1, 3, 3))
    assert rough.dtype == torch.float32
    assert 0 < (exact - rough).abs().max() < 0.05 * exact.abs().max()


def test_the_network_stays_an_ordinary_wan(tmp_path):
    """Its class, its tensors' names and its folder: what a causal student is trained from and exported as."""
    x_t, sigma, cond = inputs()
    network = tiny_wan(0)
    names = set(network.state_dict())
    with torch.no_grad():
        made = by_cache(WanDenoiser(network), x_t, sigma, cond, (1, 3, 3))
    assert type(network) is WanTransformer3DModel and set(network.state_dict()) == names
    assert not network.rope._forward_hooks
    network.save_pretrained(tmp_path)
    again = WanTransformer3DModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(by_cache(WanDenoiser(again), x_t, sigma, cond, (1, 3, 3)), made)


@pytest.mark.parametrize("layout", [(3, 3), (3, 3, 3), (0, 7), (8, -1)])
def test_chunks_must_add_up(layout):
    x_t, sigma, cond = inputs()
    with pytest.raises(ValueError, match=r"chunks = .* add up to the 7 latent frames"):
        WanDenoiser(tiny_wan(0))(x_t, sigma, cond, chunks=layout)
