import math

import pytest
import torch

from ray_distill.diffusion.timesteps import (
    check_timesteps,
    euler_timesteps,
    score_sigma,
    score_window,
    shift_sigma,
    warp,
)


@pytest.mark.parametrize(
    ("shift", "wanted"),
    [(1, [1000, 750, 500, 250]), (5, [1000, 937.5, 833.333333, 625]), (8, [1000, 960, 888.888889, 727.272727])],
)
def test_warped_steps(shift, wanted):
    """Oracle 13."""
    assert euler_timesteps(4, shift) == pytest.approx(wanted, abs=1e-6)
    assert warp((1000, 750, 500, 250), shift) == pytest.approx(wanted, abs=1e-6)


def test_the_shift_is_a_group():
    assert abs(shift_sigma(shift_sigma(0.3, 3), 2) - shift_sigma(0.3, 6)) < 1e-15
    assert shift_sigma(shift_sigma(0.3, 5), 1 / 5) == pytest.approx(0.3, abs=1e-15)
    assert shift_sigma(0.0, 5) == 0.0 and shift_sigma(1.0, 5) == 1.0


@pytest.mark.parametrize(
    ("shift", "mean", "above"),
    [(3, 0.676041, 0.75), (5, 0.747051, 0.8333), (8, 0.803356, 0.8889), (17, 0.874357, 0.9444)],
)
def test_moments_of_a_shifted_uniform(shift, mean, above):
    grid = shift_sigma((torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000, shift)
    assert grid.mean().item() == pytest.approx(mean, abs=2e-6)
    assert (grid > 0.5).double().mean().item() == pytest.approx(above, abs=1e-4)
    assert mean == pytest.approx(shift / (shift - 1) - shift * math.log(shift) / (shift - 1) ** 2, abs=1e-6)


RAW = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000


@pytest.mark.parametrize(("shift", "low", "high"), [(1, 21, 20), (5, 5, 92), (8, 3, 140)])
def test_score_sigma_shifts_then_clamps(shift, low, high):
    """The mass at the two edges is what tells the order (docs/methods.md); the other order leaves none there. Of 1000
    raw indices i, those with S(i / 1000) <= 0.02 and >= 0.98 are counted."""
    sigma = score_sigma(RAW, shift, 0.02, 0.98)
    assert (sigma == 0.02).sum() == low and (sigma >= 0.98).sum() == high
    inside = (sigma > 0.02) & (sigma < 0.98)
    assert torch.equal(sigma[inside], shift_sigma(torch.arange(1000.0, dtype=torch.float64) / 1000, shift)[inside])


@pytest.mark.parametrize("window", [(0, 1000), (280, 1000), (250, 500), (999, 1000)])
def test_score_sigma_draws_each_raw_index_of_its_window_alike(window):
    start, end = window
    u = (torch.arange(4 * (end - start), dtype=torch.float64) + 0.5) / (4 * (end - start))
    raw, counts = (1000 * score_sigma(u, 1.0, 0.0, 1.0, window)).round().unique(return_counts=True)
    assert raw.tolist() == list(range(start, end)) and counts.unique().tolist() == [4]
    edge = torch.tensor([0.0, 1 - 2**-24])  # the largest fp32 below 1
    assert (1000 * score_sigma(edge, 1.0, 0.0, 1.0, window)).round().tolist() == [start, end - 1]


@pytest.mark.parametrize(
    ("timesteps", "shift", "wanted"),
    [
        (warp((1000, 750, 500, 250), 5), 5, [(750, 1000), (500, 750), (250, 500), (0, 250)]),
        ((1000.0, 757.0, 522.0), 8, [(280, 1000), (120, 280), (0, 120)]),
        ((1000.0, 757.0, 522.0), 1, [(757, 1000), (522, 757), (0, 522)]),
    ],
)
def test_score_window(timesteps, shift, wanted):
    """Two windows, and that of SimpleTuner's example: a window whose start is the next step's own level."""
    windows = [score_window(timesteps, k, shift) for k in range(len(timesteps))]
    assert windows == wanted
    for (start, _), following in zip(windows, (*timesteps[1:], 0.0), strict=True):
        assert 1000 * shift_sigma(start / 1000, shift) == pytest.approx(following, abs=4)


@pytest.mark.parametrize(
    "steps", [[], [757, 1000], [1000, 1000, 500], [1001, 500], [1000, 0], [1000, -1], [float("nan"), 500]]
)
def test_bad_step_lists_are_named(steps):
    with pytest.raises(ValueError, match=r"^steps_of_mine = .*strictly decreasing timesteps in \(0, 1000\]"):
        check_timesteps(steps, "steps_of_mine")


def test_good_step_lists():
    assert check_timesteps([1000, 757, 522]) == (1000.0, 757.0, 522.0)
    assert check_timesteps((937.5,)) == (937.5,)
