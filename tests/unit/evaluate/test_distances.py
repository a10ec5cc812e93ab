"""KID, the Fréchet distance on components, diversity: closed forms, intervals, and what each fault moves."""

import numpy as np
import pytest
import torch

from ray_distill.evaluate.compare import ratios, summary, video_diversity
from ray_distill.evaluate.distances import against_teacher, distances, small
from ray_distill.evaluate.metrics import cosine_diversity_by_prompt
from ray_distill.evaluate.metrics.distribution import frechet_distance, kid, principal
from ray_distill.evaluate.samples import Samples
from ray_distill.types import Sampler

PROMPTS = [f"prompt {number}" for number in range(30)]
PICTURES = np.zeros((1, 2, 4, 4, 3), np.uint8)


def samples(features):
    return Samples(None, None, None, 0.01, PICTURES, {}, features)


def videos(seed, spread=1.0, shift=0.0, count=30):
    """Features of a law with a centre of its own for each prompt."""
    centres = torch.randn(count, 12, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(count, 12, generator=torch.Generator().manual_seed(seed))
    return centres + spread * noise + shift


def test_kid_of_two_points_each():
    a, b = torch.eye(2), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert kid(a, b) == pytest.approx(-2.375)
    many = (points.repeat(2000, 1) for points in (a, b))  # among many copies the diagonal counts for nothing
    assert kid(*many) == pytest.approx(0.5625, abs=2e-3)  # the biased value of the two points
    assert kid(a, b, paired=True) == pytest.approx(1 + 1 - 2 * (1.0 + 3.375) / 2)  # (a_1, b_2) and (a_2, b_1)


def test_kid_of_equal_laws_is_0_in_the_mean_and_below_it_half_the_time():
    values = []
    for seed in range(300):
        a, b = torch.randn(2, 30, 8, generator=torch.Generator().manual_seed(seed)).unbind(0)
        values.append(kid(a, b))
    values = np.array(values)
    assert abs(values.mean()) < 4 * values.std() / len(values) ** 0.5
    assert 0.35 < (values < 0).mean() < 0.75


def test_pairs_of_one_prompt_are_left_out():
    """Prompts differ more than noise does: with k(a_i, b_i) two seeds of one law would seem closer than they are."""
    found = [(kid(videos(2 * s + 1), videos(2 * s + 2), paired=p)) for p in (True, False) for s in range(200)]
    paired, whole = np.array(found[:200]), np.array(found[200:])
    assert abs(paired.mean()) < 4 * paired.std() / 200**0.5
    assert whole.mean() < -4 * whole.std() / 200**0.5


def test_components_are_the_teacher_s_and_no_more_than_its_videos_bear():
    """The distance of 100 features of 200 numbers is mostly bias, (2 d + d (d + 1) / 2) / n for N(0, I)."""
    teacher, student = torch.randn(2, 100, 200, generator=torch.Generator().manual_seed(0)).unbind(0)
    teacher[:, 0] *= 20
    student[:, 0] *= 20
    project = principal(teacher, most=2)
    assert project(teacher).shape == (100, 2) and principal(teacher)(student).shape == (100, 25)
    assert abs(np.corrcoef(project(teacher)[:, 0], teacher[:, 0])[0, 1]) > 0.99
    assert project(teacher).mean(0).abs().max() < 1e-4
    assert frechet_distance(project(student), project(teacher)) < 0.3 * frechet_distance(student, teacher)
    assert principal(teacher[:3])(student).shape == (100, 1)
    assert frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [3.0]])) == pytest.approx(1.0)


def test_diversity_of_directions():
    """K / (K - 1) (1 - |mean f|^2): two at right angles have 1, equal ones 0, whatever their lengths."""
    features = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0], [2.0, 2.0], [5.0, 1.0]])
    assert cosine_diversity_by_prompt(features, ["a", "a", "b", "b", "c"]) == pytest.approx({"a": 1.0, "b": 0.0})


def test_seeds_together_make_a_prompt_s_diversity():
    seeds = [samples(videos(1)), samples(videos(2))]
    found = video_diversity(seeds, PROMPTS)
    pair = torch.stack([videos(1)[3], videos(2)[3]])
    assert found[PROMPTS[3]] == pytest.approx(1 - torch.cosine_similarity(*pair.double(), dim=0).item())
    assert video_diversity(seeds[:1], PROMPTS) == {} == video_diversity([samples(None)], PROMPTS)
    row = summary(seeds, None, Sampler((1000.0,), "ode"), PROMPTS)
    assert row["video_diversity"] == pytest.approx(np.mean(list(found.values())))
    assert "video_diversity" not in summary(seeds[:1], None, Sampler((1000.0,), "ode"), PROMPTS)


def test_each_fault_is_named_by_its_metric():
    """One video for all seeds: diversity. Another law: both distances. Less spread: the Fréchet distance."""
    teacher = [samples(videos(seed)) for seed in (1, 2)]
    one_video = [samples(videos(3))] * 2
    shifted = [samples(videos(seed, shift=1.0)) for seed in (4, 5)]
    fine = [samples(videos(seed)) for seed in (6, 7)]
    diversity = {name: ratios(of, teacher, PROMPTS)["video_diversity_ratio"] for name, of in
                 {"one": one_video, "shifted": shifted, "fine": fine}.items()}  # fmt: skip
    assert diversity["one"]["value"] == pytest.approx(0.0, abs=1e-6) and diversity["one"]["high"] < 0.01
    assert diversity["fine"]["low"] < 1 < diversity["fine"]["high"]
    far, near = (against_teacher(of, teacher, PROMPTS) for of in (shifted, fine))
    for name in ("video_kid", "video_frechet"):
        assert far["distances"][name]["low"] > far["teacher_distances"][name]["value"]
        assert near["distances"][name]["low"] < near["teacher_distances"][name]["value"]
        assert far["distances"][name]["videos"] == far["teacher_distances"][name]["videos"] == 30


def test_a_teacher_against_itself_is_at_its_floor():
    teacher = [samples(videos(seed)) for seed in (1, 2, 3)]
    found = against_teacher(teacher, teacher, PROMPTS)
    assert found["distances"] == found["teacher_distances"]
    rotated = distances(teacher[1:] + teacher[:1], teacher, PROMPTS)  # the same videos
    assert rotated["video_kid"]["value"] == pytest.approx(0.0, abs=1e-9)
    assert rotated["video_frechet"]["value"] == pytest.approx(0.0, abs=1e-9)
    assert set(against_teacher(teacher[:1], teacher[:1], PROMPTS)) == {"distances"}


def test_the_interval_covers_the_true_distance():
    """Of equal laws it is 0, which should be inside 95 times in 100."""
    inside = 0
    for seed in range(40):
        row = distances([samples(videos(2 * seed + 100))], [samples(videos(2 * seed + 101))], PROMPTS)["video_kid"]
        inside += row["low"] <= 0 <= row["high"]
    assert inside >= 34


def test_few_videos_are_said_and_none_have_no_distance():
    teacher = [samples(videos(seed)) for seed in (1, 2)]
    found = against_teacher(teacher[::-1], teacher, PROMPTS)
    line = small(found["distances"], found["teacher_distances"])
    assert line.startswith("video_frechet and video_kid compare 30 videos with 30") and "floor of" in line
    assert small({}, {}) is None
    assert distances([samples(None)], [samples(None)], PROMPTS) == {} == against_teacher(teacher, teacher[:1], PROMPTS)
    assert distances([samples(videos(1)[:2])], [samples(videos(2)[:2])], PROMPTS[:2]) == {}
    two = distances([samples(videos(1)[:6])], [samples(videos(2)[:6])], ["a", "b"] * 3)
    assert set(two["video_kid"]) == {"value", "videos"}  # two groups of prompts give no interval


def test_features_are_kept_with_the_samples(tmp_path):
    samples(videos(1)).save(tmp_path / "made.safetensors")
    assert torch.equal(Samples.load(tmp_path / "made.safetensors").video_features, videos(1))
