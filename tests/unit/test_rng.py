import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from ray_distill.rng import StatelessRng

SHAPE = (2, 3, 4)
IDS = torch.arange(8)


@pytest.fixture
def rng():
    return StatelessRng(seed=3, step=5)


def test_a_draw_is_a_pure_function(rng):
    first = rng.noise("a", IDS, SHAPE), rng.uniform("a", IDS), rng.control("a", 1000)
    torch.rand(7), np.random.rand(7), rng.noise("b", IDS, SHAPE)  # what happened since does not matter
    again = StatelessRng(3, 5)
    assert torch.equal(first[0], again.noise("a", IDS, SHAPE)) and torch.equal(first[1], again.uniform("a", IDS))
    assert first[2] == again.control("a", 1000) == StatelessRng(3).at(5).control("a", 1000)


@pytest.mark.parametrize("order", [[7, 2, 5], [0], [4, 4]])
def test_batching_and_order_change_nothing(rng, order):
    assert torch.equal(rng.noise("a", IDS[order], SHAPE), rng.noise("a", IDS, SHAPE)[order])
    assert torch.equal(rng.uniform("a", IDS[order]), rng.uniform("a", IDS)[order])


@pytest.mark.parametrize(
    "other",
    [
        lambda: StatelessRng(3, 5).noise("b", IDS, SHAPE),
        lambda: StatelessRng(3, 6).noise("a", IDS, SHAPE),
        lambda: StatelessRng(4, 5).noise("a", IDS, SHAPE),
        lambda: StatelessRng(3, 5).noise("a", IDS + 8, SHAPE),
        lambda: StatelessRng(5, 3).noise("a", IDS, SHAPE),
    ],
    ids=["purpose", "step", "seed", "samples", "seed and step swapped"],
)
def test_other_keys_give_other_draws(rng, other):
    mine, others = rng.noise("a", IDS, SHAPE), other()
    assert not (mine == others).any()
    assert abs(np.corrcoef(mine.flatten(), others.flatten())[0, 1]) < 4 / mine.numel() ** 0.5


def test_samples_of_a_batch_differ(rng):
    assert len(rng.uniform("a", torch.arange(500)).unique()) > 495
    assert len(torch.unique(rng.noise("a", IDS, SHAPE).flatten(1), dim=0)) == len(IDS)


def test_streams_of_neighbours_do_not_overlap():
    """A long draw of one sample or step never runs into that of the next."""
    streams = [StatelessRng(0, step).noise("a", torch.tensor([i]), (5000,)) for step in (0, 1) for i in (0, 1)]
    assert len(torch.cat(streams, 1).unique()) > 19_900


def test_noise_is_standard_normal(rng):
    drawn = rng.noise("a", IDS, (50_000,))
    noise, n = drawn.double(), drawn.numel()
    assert drawn.dtype == torch.float32 and abs(noise.mean()) < 4 / n**0.5
    assert abs(noise.std() - 1) < 4 / (2 * n) ** 0.5
    assert abs((noise**4).mean() - 3) < 4 * (96 / n) ** 0.5


def test_uniform_is_uniform(rng):
    draws = rng.uniform("a", torch.arange(10_000))
    assert draws.dtype == torch.float32 and draws.min() >= 0 and draws.max() < 1
    assert chisquare(np.histogram(draws, 20, (0, 1))[0]).pvalue > 1e-3


@pytest.mark.parametrize("high", [1, 3, 4])
def test_control_is_uniform_over_steps(high):
    counts = np.bincount([StatelessRng(0, step).control("exit", high) for step in range(10_000)], minlength=high)
    assert len(counts) == high and (high == 1 or chisquare(counts).pvalue > 1e-3)


def test_control_is_no_samples_draw(rng):
    """Ranks hold other samples and still agree: nothing but seed, purpose and step goes into it."""
    before = [rng.control("exit", 1 << 30) for _ in range(3)]
    rng.noise("exit", torch.tensor([99]), SHAPE)
    assert {*before, rng.control("exit", 1 << 30)} == {before[0]}
    assert rng.control("other", 1 << 30) != before[0] != rng.at(6).control("exit", 1 << 30)
