from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import interpolate

from ray_distill.config.evaluate import Goals
from ray_distill.data.read.transform import to_frames, to_pixels
from ray_distill.evaluate.compare import ratios, summary
from ray_distill.evaluate.metrics import Metric, diversity, frechet_distance, measures
from ray_distill.evaluate.report import misses
from ray_distill.evaluate.samples import Samples
from ray_distill.types import Sampler

TEACHER = Path(__file__).parents[3] / "examples" / "digits_teacher"
HEADS = {"digit": ["zero", "one"], "direction": ["left", "right"]}


def gaussian(n, mean, scale, seed):
    """[n, D] with exactly this sample mean and a diagonal sample covariance scale^2."""
    x = torch.randn(n, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T
    return x * torch.tensor(scale) + torch.tensor(mean)


def test_frechet_distance_of_diagonal_gaussians_is_the_closed_form():
    a = gaussian(50, [0.0, 1.0, 2.0], [1.0, 2.0, 3.0], seed=0)
    b = gaussian(80, [1.0, 1.0, -1.0], [2.0, 0.5, 3.0], seed=1)
    assert frechet_distance(a, b) == pytest.approx((1 + 9) + (1 + 1.5**2), rel=1e-9)


def test_frechet_distance_equals_scipy():
    rng = np.random.default_rng(0)
    a, b = (
        rng.normal(size=(200, 16)) @ rng.normal(size=(16, 16)),
        rng.normal(size=(300, 16)) @ rng.normal(size=(16, 16)),
    )
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(wanted, rel=1e-8)


def test_frechet_distance_is_zero_to_itself_symmetric_and_stable_when_singular():
    few = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))  # covariance of rank 9
    more = torch.randn(20, 64, generator=torch.Generator().manual_seed(1))
    assert frechet_distance(few, few) < 1e-6
    assert frechet_distance(few, more) == pytest.approx(frechet_distance(more, few), rel=1e-6)


def test_frechet_distance_names_wrong_shapes():
    with pytest.raises(ValueError, match=r"\(1, 4\), \(5, 4\)"):
        frechet_distance(torch.zeros(1, 4), torch.zeros(5, 4))
    with pytest.raises(ValueError, match="features must be"):
        frechet_distance(torch.zeros(5, 3), torch.zeros(5, 4))


class Fixed(Metric):
    """A metric whose answers are given, so that accuracy's rule is tested and no network."""

    def classify(self, videos):
        return [("zero", "left"), ("zero", "right"), ("one", "left"), ("one", "right")]


def test_accuracy_wants_every_head_right():
    videos = np.zeros((4, 9, 24, 24, 3), np.uint8)
    metric = Fixed(HEADS, (9, 24, 24))
    assert metric.accuracy(videos, ["A zero moving LEFT"] * 4) == 0.25
    assert metric.accuracy(videos, ["zero left", "zero right", "one left", "zero right"]) == 0.75


def test_accuracy_refuses_a_prompt_it_cannot_judge():
    videos = np.zeros((4, 9, 24, 24, 3), np.uint8)
    with pytest.raises(ValueError, match="'a zero' names no direction: it must contain one of left, right"):
        Fixed(HEADS, (9, 24, 24)).accuracy(videos, ["a zero"] * 4)
    with pytest.raises(ValueError, match="4 videos and 3 prompts"):
        Fixed(HEADS, (9, 24, 24)).accuracy(videos, ["zero left"] * 3)


def test_metric_survives_its_folder_and_reads_frames_as_pixels(tmp_path):
    torch.manual_seed(0)
    metric = Metric(HEADS, (9, 24, 24))
    metric.save(tmp_path)
    again = Metric.load(tmp_path)
    pixels = torch.rand(3, 3, 9, 24, 24) * 2 - 1
    frames = to_frames(pixels)
    assert metric.features(pixels).shape == (3, 64)
    assert torch.equal(again.features(pixels), metric.features(pixels))
    torch.testing.assert_close(again.features(frames), again.features(to_pixels(frames)))
    torch.testing.assert_close(again.features(pixels, batch=2), again.features(pixels), atol=1e-5, rtol=0)
    assert not any(p.requires_grad for p in again.parameters())
    with pytest.raises(ValueError, match=r"\(9, 24, 24\), got \(3, 3, 8, 24, 24\)"):
        again.features(pixels[:, :, :8])


def test_max_pooling_takes_the_best_place_of_each_frame(tmp_path):
    torch.manual_seed(0)
    metric = Metric(HEADS, (9, 24, 24), window=6, pooling="max")
    metric.save(tmp_path)
    pixels = torch.rand(2, 3, 9, 24, 24) * 2 - 1
    maps = metric.trunk[:6](pixels)
    assert maps.shape == (2, 64, 3, 1, 1)  # a window of 6 sees the whole 24 x 24
    wide = torch.rand(2, 3, 9, 32, 32) * 2 - 1
    maps = metric.trunk[:6](wide)
    torch.testing.assert_close(metric.trunk(wide), maps.amax((3, 4)).mean(2))
    assert torch.equal(Metric.checked(tmp_path, "metric").load(tmp_path).features(pixels), metric.features(pixels))


def moving_digits(metric):
    """80 videos of digits, drawn here without the example's own drawing and without its mp4, and their prompts."""
    data = load_digits()
    videos = np.zeros((80, 9, 24, 24, 3), np.uint8)
    prompts = []
    for i in range(80):
        small = torch.from_numpy(data.images[i] * 255 / 16)[None, None]
        digit = interpolate(small, (12, 12), mode="bilinear")[0, 0, :, :, None].byte().numpy()
        for t in range(9):
            top, left = [(6, 10 - t), (6, 2 + t), (10 - t, 6), (2 + t, 6)][i % 4]
            videos[i, t, top : top + 12, left : left + 12] = digit
        prompts.append(f"a {metric.words['digit'][data.target[i]]} moving {metric.words['direction'][i % 4]}")
    return videos, prompts


def test_shipped_metric_reads_digits_and_directions():
    metric = Metric.load(TEACHER / "metric")
    videos, prompts = moving_digits(metric)
    assert metric.accuracy(videos, prompts) >= 0.9
    assert metric.accuracy(videos, prompts[4:] + prompts[:4]) < 0.4
    assert metric.accuracy(videos[:, ::-1].copy(), prompts) == 0.0, "played backwards, no direction is right"


def test_shipped_metric_names_a_student_that_ignores_its_prompt_and_one_that_repeats_a_video():
    metric = Metric.load(TEACHER / "metric")
    videos, prompts = moving_digits(metric)
    first = [prompts.index(prompt) for prompt in prompts]
    assert len(set(first)) < len(first) - 20  # many prompts have several videos

    def compared(shown):
        features = metric.features(shown)
        accuracy, varied = metric.accuracy(shown, prompts, features), diversity(features, prompts)
        return Samples(features, accuracy, varied, 0.01, shown[:1], measures(shown, 8))

    def judged(shown):
        student, teacher = compared(shown), compared(videos)
        rows = {name: summary([of], None, Sampler((1000.0,), "ode"), prompts) for name, of in
                (("student", student), ("teacher_many", teacher))}  # fmt: skip
        rows["ratios"] = ratios([student], [teacher], prompts)
        goals = Goals(accuracy=0.9, within={"motion_ratio": {"at_least": 0.95}, "diversity_ratio": {"at_least": 0.5}})
        return [missed.split(" is ")[0] for missed in misses(rows, goals)]

    assert judged(videos) == []
    assert judged(np.roll(videos, 4, axis=0)) == ["its accuracy"]
    assert judged(videos[first]) == ["its diversity_ratio"]
    assert judged(np.repeat(videos[:, :1], 9, axis=1)) == ["its accuracy", "its motion_ratio"]


def test_diversity_is_the_distance_within_a_prompt_alone():
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [100.0, 0.0], [100.0, 1.0], [-50.0, 0.0]])
    assert diversity(features, ["a", "a", "b", "b", "c"]) == pytest.approx((5.0 + 1.0) / 2)
    assert diversity(features[:1], ["a"]) is None


class Pairs(Metric):
    def classify(self, videos):
        return [("five", "red", "three", "blue"), ("three", "red", "five", "blue"), ("five", "blue", "three", "red")]


def test_heads_of_equal_words_ask_for_them_in_the_prompts_order():
    digits, colours = ["three", "five"], ["red", "blue"]
    metric = Pairs({"digit_1": digits, "colour_1": colours, "digit_2": digits, "colour_2": colours}, (9, 24, 24))
    videos, prompt = np.zeros((3, 9, 24, 24, 3), np.uint8), "a slow red five behind a blue three"
    assert metric.accuracy(videos, [prompt] * 3) == pytest.approx(1 / 3)
    assert metric.head_without_answer(prompt) is None and metric.head_without_answer("a red five") == "digit_2"
