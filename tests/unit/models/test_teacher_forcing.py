"""Teacher forcing, windows and sinks on a real (tiny) Wan: one masked forward equals the cached one."""

from itertools import accumulate, pairwise

import pytest
import torch

from ray_distill.diffusion.causal import teacher_forced
from ray_distill.diffusion.samplers import sample_chunks
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.plan.passes import Counter
from ray_distill.types import Cache, Chunks, History, Sampler, Window
from tests.tiny_wan import TEXT, tiny_wan
from tests.unit.models.test_causal_wan import by_cache, inputs

ONES = (1,) * 7
CASES = [((1, 3, 3), None), ((3, 3, 1), None), ((1, 3, 3), Window(4, 1)), ((1, 3, 3), Window(3)), (ONES, Window(3, 1))]


def forced(batch=2, frames=7):
    """A noised clip with a level for each frame, its clean past, and text."""
    x_t, sigma, cond = inputs(batch, frames)
    clean = 0.5 * x_t.flip(2)
    return x_t, sigma, cond, History(clean, torch.zeros_like(sigma))


def after_clean_chunks(model, x_t, sigma, cond, history, layout, window=None):
    """Each noised chunk on a cache of the clean chunks before it, whose graph is kept where autograd is on."""
    cache, out = Cache(window=window), []
    for start, end in pairwise((0, *accumulate(layout))):
        out.append(model(x_t[:, :, start:end], sigma[:, start:end], cond, cache=cache).velocity)
        model(history.x[:, :, start:end], history.sigma[:, start:end], cond, cache=cache, remember=True)
    return torch.cat(out, dim=2)


@pytest.mark.parametrize(("layout", "window"), CASES)
@torch.no_grad()
def test_the_masked_forward_equals_the_cached_one(layout, window):
    """Oracle 33, to 1e-5 in fp32; what a window hides does count."""
    x_t, sigma, cond, history = forced()
    model = WanDenoiser(tiny_wan(0))
    masked = teacher_forced(model, history, layout, window)(x_t, sigma, cond).velocity
    assert (after_clean_chunks(model, x_t, sigma, cond, history, layout, window) - masked).abs().max() < 1e-5
    if window is not None:
        assert (teacher_forced(model, history, layout)(x_t, sigma, cond).velocity - masked).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["first", "held"])
@torch.no_grad()
def test_a_picture_begins_both_halves_and_the_cache(kind):
    """In the place of the first frame, at level 0, in whatever chunk it is; or beside each frame of the clip."""
    x_t, sigma, cond, history = forced()
    cond["first" if kind == "first" else "held"] = torch.randn(2, 4, *((4, 6) if kind == "first" else (7, 4, 6)))
    channels = 4 if kind == "first" else 4 + 4 + 4
    network = type(tiny_wan(0)).from_config(dict(tiny_wan(0).config) | {"in_channels": channels})
    model, window = WanDenoiser(network), Window(4, 1)
    for layout in ((1, 3, 3), ONES):
        masked = teacher_forced(model, history, layout, window)(x_t, sigma, cond).velocity
        assert (after_clean_chunks(model, x_t, sigma, cond, history, layout, window) - masked).abs().max() < 1e-5
        other = cond | {kind: cond[kind].flip(1)}
        moved = (teacher_forced(model, history, layout, window)(x_t, sigma, other).velocity - masked).abs()
        assert (moved.amax((0, 1, 3, 4)) > 1e-5).all()
        if kind == "first":
            x_0 = x_t[:, :, 0] - sigma[:, 0].view(-1, 1, 1, 1) * masked[:, :, 0]
            torch.testing.assert_close(x_0, cond["first"], atol=1e-5, rtol=0)
            x_t, history = x_t.clone(), History(history.x.clone(), history.sigma)
            x_t[:, :, 0], history.x[:, :, 0] = 7.0, 7.0  # nobody sees these
            again = teacher_forced(model, history, layout, window)(x_t, sigma, cond).velocity
            torch.testing.assert_close(again[:, :, 1:], masked[:, :, 1:], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("layout", "window"), CASES[2:])
@torch.no_grad()
def test_a_window_in_one_forward_equals_the_cache(layout, window):
    x_t, sigma, cond = inputs()
    model, cache = WanDenoiser(tiny_wan(0)), Cache(window=window)
    masked = model(x_t, sigma, cond, chunks=layout, window=window).velocity
    assert (by_cache(model, x_t, sigma, cond, layout, cache) - masked).abs().max() < 1e-5
    assert (model(x_t, sigma, cond, chunks=layout).velocity - masked).abs().max() > 1e-4


@torch.no_grad()
def test_relative_positions_without_a_sink_are_absolute_ones():
    """Oracle 35: of one layer, whose keys have seen nothing else, the last chunk in a window of 8 of 12 frames is that
    of a clip which begins with the window; with a sink the distances to it change."""
    network = tiny_wan(0)
    network.blocks = network.blocks[:1]
    x_t, sigma, cond = inputs(2, 12)
    model = WanDenoiser(network)

    def last(window, start=0, frames=slice(None)):
        x, s = x_t[:, :, start:][:, :, frames], sigma[:, start:][:, frames]
        return model(x, s, cond, chunks=(4,) * (x.shape[2] // 4), window=window).velocity[:, :, -4:]

    assert (last(Window(8)) - last(None, start=4)).abs().max() < 1e-5
    kept = [*range(4), *range(8, 12)]
    beside = model(x_t[:, :, kept], sigma[:, kept], cond, chunks=(4, 4)).velocity[:, :, -4:]
    assert (last(Window(8, 4)) - beside).abs().max() < 1e-5  # the sink stands beside the window, not 8 frames away
    assert (last(Window(8, 4)) - last(Window(8))).abs().max() > 1e-4


@torch.no_grad()
def test_a_cache_holds_what_the_next_chunk_sees_and_no_more():
    """Whole chunks leave it, and the sink stays, from the window on at a constant number of bytes."""
    x_t, sigma, cond = inputs(1, 3)
    model, cache, sizes = WanDenoiser(tiny_wan(0)), Cache(window=Window(9, 3)), []
    for _ in range(7):
        model(x_t, sigma, cond, cache=cache, remember=True)
        sizes.append(sum(x.nbytes for chunk in cache.chunks.values() for layer in chunk for x in layer))
    assert list(cache.chunks) == [(0, 3), (18, 21)] and cache.frames == 21
    assert sizes == [sizes[0], *[2 * sizes[0]] * 6]


@pytest.mark.parametrize("frames", [24, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_memory_of_a_rollout_is_flat_from_the_window_on(frames):
    """Bytes of all tensors alive between chunks, and at most within one; without a window both grow."""
    model = WanDenoiser(tiny_wan(0))
    known = [*model.network.parameters(), *model.network.buffers()]

    def rolled(window):
        recipe = Sampler((1000.0,), "ode", chunks=Chunks(2, window=window))
        lengths = (2,) * (frames // 2) if window else (2,) * 12
        text, alive, most = {"text": torch.zeros(1, *TEXT)}, [], []
        with Counter(known) as counter:

            def noise(_, where):
                return torch.randn(1, 4, where.stop - where.start, 4, 6)

            for chunk in sample_chunks(model, recipe, lengths, text, None, noise):
                assert chunk.isfinite().all()
                del chunk
                alive.append(counter.now)
                most.append(counter.most)
                counter.most = 0
        return alive, most

    alive, most = rolled(Window(6, 2))
    assert len(alive) == frames // 2
    assert len(set(alive[4:])) == 1 and len(set(most[4:])) == 1
    alive, most = rolled(None)
    assert alive[-1] > 2 * alive[4] and most[-1] > 1.2 * most[4]


def gradient(network, velocity):
    """The gradient of the weights that make keys and values."""
    network.zero_grad()
    velocity.square().mean().backward()
    layers = [layer for block in network.blocks for layer in (block.attn1.to_k, block.attn1.to_v)]
    return torch.cat([layer.weight.grad.flatten() for layer in layers])


@pytest.mark.parametrize("window", [None, Window(4, 1)])
def test_gradient_passes_the_clean_half(window):
    """Oracle 33: the gradient is that of a cache that keeps its graph, and not that of one filled without."""
    x_t, sigma, cond, history = forced()
    layout, network = (1, 3, 3), tiny_wan(0)
    model = WanDenoiser(network)
    masked = gradient(network, teacher_forced(model, history, layout, window)(x_t, sigma, cond).velocity)
    cached = gradient(network, after_clean_chunks(model, x_t, sigma, cond, history, layout, window))
    assert (masked - cached).abs().max() < 1e-5 * masked.abs().max()

    def blind(*args, remember=False, **rest):
        with torch.set_grad_enabled(not remember):
            return model(*args, remember=remember, **rest)

    cut = gradient(network, after_clean_chunks(blind, x_t, sigma, cond, history, layout, window))
    assert (cut - masked).norm() > 0.05 * masked.norm()


@torch.no_grad()
def test_who_sees_whom():
    """Oracle 33: another clean chunk 1 moves the noised chunk 2 alone, another noised chunk 1 itself alone."""
    x_t, sigma, cond, history = forced()
    model, layout = WanDenoiser(tiny_wan(0)), (3, 3, 1)

    def moved(x_t, clean):
        other = teacher_forced(model, History(clean, history.sigma), layout)(x_t, sigma, cond).velocity
        change = (other - whole).abs().amax((0, 1, 3, 4)) > 1e-6
        return [bool(change[start:end].any()) for start, end in ((0, 3), (3, 6), (6, 7))]

    whole = teacher_forced(model, history, layout)(x_t, sigma, cond).velocity
    clean, noised = history.x.clone(), x_t.clone()
    clean[:, :, 3:6] += 1
    noised[:, :, 3:6] += 1
    assert moved(x_t, clean) == [False, False, True] and moved(noised, history.x) == [False, True, False]


def test_gradients_under_checkpointing():
    x_t, sigma, cond, history = forced()
    networks = [tiny_wan(0), tiny_wan(0)]
    networks[1].enable_gradient_checkpointing()
    plain, again = (
        gradient(n, teacher_forced(WanDenoiser(n.train()), history, (1, 3, 3), Window(4, 1))(x_t, sigma, cond).velocity)
        for n in networks
    )
    torch.testing.assert_close(plain, again, atol=1e-7, rtol=1e-5)
