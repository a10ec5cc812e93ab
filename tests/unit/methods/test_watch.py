import math

import pytest
import torch

from ray_distill.diffusion.losses import gaussian_floor
from ray_distill.methods.watch import by_sigma, floor_logs, levels, warnings


def test_bins_keep_their_names_and_their_samples():
    sigma = torch.tensor([0.02, 0.19, 0.2, 0.98, 1.0])
    logs = by_sigma("loss", torch.arange(5.0), sigma)
    assert list(logs) == ["loss/0.0-0.2", "loss/0.2-0.4", "loss/0.4-0.6", "loss/0.6-0.8", "loss/0.8-1.0"]
    there = {name: values[~values.isnan()].tolist() for name, values in logs.items()}
    assert list(there.values()) == [[0.0, 1.0], [2.0], [], [], [3.0, 4.0]]


def test_an_optimal_fake_score_stands_at_its_floor():
    sigma = torch.tensor([0.1, 0.9])
    x = torch.tensor([1.5, 2.5, 1.5, 2.5]).reshape(2, 1, 1, 1, 2)
    logs = floor_logs(torch.tensor([1.17647, 0.307692]), gaussian_floor(x, sigma), sigma)
    assert logs["fake_score_over_floor"].item() == pytest.approx(1.0, abs=1e-5)
    assert logs["fake_score_loss_by_sigma/0.0-0.2"][0].item() == pytest.approx(1.17647)
    assert logs["fake_score_floor_by_sigma/0.8-1.0"][1].item() == pytest.approx(0.307692, abs=1e-5)


def fake_scores(*levels):
    """50 rows at each level, a little ripple included."""
    return [
        {"step": float(step), "fake_score_over_floor": level + 0.02 * math.sin(step)}
        for step, level in enumerate(level for level in levels for _ in range(50))
    ]


def students(*levels, wanted=1.0, name="teacher_std"):
    return [
        {"step": 5.0 * i, "student_std": level + 0.001 * math.sin(i), name: wanted}
        for i, level in enumerate(level for level in levels for _ in range(20))
    ]


@pytest.mark.parametrize(
    "levels",
    [
        (1.0,) * 8,
        (3.0, 2.0, 1.5, 1.2),  # learning
        (0.3, 0.5, 0.7, 0.9),  # growing, but better than a Gaussian
        (1.0, 1.3, 1.1, 1.4),  # swinging
        (1.0, 2.0),  # too few to tell
    ],
)
def test_a_fake_score_that_follows_is_left_in_peace(levels):
    assert warnings(fake_scores(*levels)) == []


def test_a_fake_score_that_lags_is_named_once_with_a_remedy():
    rows = fake_scores(1.0, 1.1, 1.2, 1.3, 1.4)
    (text,) = warnings(rows)
    assert text.startswith("step 149: the fake score lags") and "student_interval 5 to 10" in text
    said = {text for n in range(len(rows) + 1) for text in warnings(rows[:n])}
    assert said == {text}


@pytest.mark.parametrize(
    "levels", [(1.0,) * 8, (0.5, 0.6, 0.8, 1.0), (1.3, 1.2, 1.25, 1.2, 1.3), (1.0, 1.01, 1.02, 1.03)]
)
def test_a_spread_that_reaches_the_teachers_is_no_saturation(levels):
    assert warnings(students(*levels)) == []


@pytest.mark.parametrize("name", ["teacher_std", "data_std"])
def test_a_spread_that_grows_on_is_saturation(name):
    rows = students(0.9, 1.0, 1.1, 1.2, 1.3, name=name)
    (text,) = warnings(rows)
    assert text.startswith("step 395: the student saturates") and "0.9 to 1.2, against 1." in text
    assert "method.teacher_guidance" in text
    assert warnings(rows[:-1]) == [text] and warnings([]) == []


def test_both_can_be_said():
    assert len(warnings(fake_scores(1.0, 1.2, 1.5) + students(0.9, 1.0, 1.1, 1.2))) == 2


def test_the_watched_numbers_stand_beside_their_thresholds():
    rows = fake_scores(0.5, 0.75) + students(1.0, 1.2, wanted=0.8)
    lag, spread = levels(rows, bf16=True)  # no row has a share of rounding
    assert (lag.step, lag.threshold) == (99, 1.0) and lag.value == pytest.approx(0.75, abs=0.01)
    assert (spread.step, spread.threshold) == (195, 1.1) and spread.value == pytest.approx(1.5, abs=0.01)
    rounding = [{"step": s, "bf16_share": 0.05} for s in range(50)]
    (share,) = levels(rounding, bf16=True)
    assert (share.value, share.threshold) == (pytest.approx(0.05), 0.2) and levels(rounding) == []
    assert levels(fake_scores(1.0)[:49]) == []
