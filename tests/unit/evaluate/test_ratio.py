"""Student over teacher: the interval's width in closed form, and prompts, not videos, drawn."""

import math

import numpy as np
import pytest

from ray_distill.evaluate.metrics import by_prompt, paired_difference, paired_ratio


def arms(n, correlation, seed=0):
    """Per-prompt means with exactly mean 2 and 1.6, standard deviation 0.4 and this correlation."""
    x = np.random.default_rng(seed).normal(size=(n, 2))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    t = 2 + 0.4 * x[:, 0]
    s = 1.6 + 0.4 * (correlation * x[:, 0] + np.sqrt(1 - correlation**2) * x[:, 1])
    return [{str(i): float(v) for i, v in enumerate(arm)} for arm in (s, t)]


@pytest.mark.parametrize("correlation, error", [(0.8, 0.012), (0.0, 0.0256)])
def test_the_interval_is_that_of_the_delta_method(correlation, error):
    """se = sqrt(s_s^2 + R^2 s_t^2 - 2 R rho s_s s_t) / (sqrt(P) mean t): pairing more than halves it."""
    ratio = paired_ratio(*arms(100, correlation))
    assert ratio.value == pytest.approx(0.8)
    assert (ratio.high - ratio.low) / (2 * 1.96) == pytest.approx(error, rel=0.06)


def test_an_arm_against_itself_is_one_exactly():
    student, _ = arms(40, 0.5)
    ratio = paired_ratio(student, student)
    assert (ratio.value, ratio.low, ratio.high) == (1.0, 1.0, 1.0)


def test_a_difference_of_rates_has_the_interval_of_a_mean():
    """se = sqrt(2 (1 - rho)) s / sqrt(P): 0.4 * sqrt(0.4) / 10, and a teacher may have 0."""
    difference = paired_difference(*arms(100, 0.8))
    assert difference.value == pytest.approx(-0.4)
    assert (difference.high - difference.low) / (2 * 1.96) == pytest.approx(0.4 * 0.4**0.5 / 10, rel=0.06)
    assert paired_difference({"a": 0.0}, {"a": 0.0}).value == 0.0


def test_means_are_taken_of_prompts_first():
    assert by_prompt([1.0, 3.0, 10.0], ["a", "a", "b"]) == {"a": 2.0, "b": 10.0}


def test_other_prompts_and_a_static_teacher_are_refused():
    with pytest.raises(ValueError, match="same prompts"):
        paired_ratio({"a": 1.0}, {"b": 1.0})
    with pytest.raises(ValueError, match="teacher's mean is 0.001, which must be above 0.002"):
        paired_ratio({"a": 1.0}, {"a": 0.001}, least=0.002)


def test_one_prompt_has_no_interval_and_no_verdict():
    for compare in (paired_ratio, paired_difference):
        ratio = compare({"a": 1.0}, {"a": 2.0})
        assert ratio.value == (0.5 if compare is paired_ratio else -1.0)
        assert math.isnan(ratio.low) and math.isnan(ratio.high)
        assert not math.isnan(compare({"a": 1.0, "b": 1.0}, {"a": 2.0, "b": 2.0}).low)
