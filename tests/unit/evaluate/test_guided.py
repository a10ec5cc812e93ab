"""The guided few-step teacher is chosen by halves: all settings on some videos, the best three on all."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ray_distill.evaluate import compare, generate, guided
from ray_distill.evaluate.guided import best_guided
from ray_distill.evaluate.samples import Candidate
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.types import Sampler
from tests.unit.toys import run_config

DIGITS = Path(__file__).parents[3] / "examples" / "digits_teacher"
REAL = torch.randn(500, 2, generator=torch.Generator().manual_seed(9))


class Grid:
    """Stands for Generator: the features of setting ``scale`` are REAL's law moved by its ``misses``, one for the first
    100 videos and one for the others."""

    def __init__(self, misses, count):
        self.misses, self.prompts, self.timeout_s, self.sampled = misses, ["a"] * count, 1, []

    def start_features(self, candidates, seed, videos):
        scales = [candidate.sampler.guidance_scale for candidate in candidates]
        self.sampled.append((seed, scales, videos))
        draw = torch.randn(len(videos), 2, generator=torch.Generator().manual_seed(videos.start))
        late = (torch.arange(videos.start, videos.stop) >= 100)[:, None]
        both = [self.misses[scale] for scale in scales]
        return [torch.stack([draw + torch.where(late, after, before) for before, after in both])]


@pytest.fixture
def choose(tmp_path, monkeypatch):
    monkeypatch.setattr(guided, "wait_for", lambda tasks, *_: tasks)

    def chosen(misses, count, **more):
        grid = {"guidance_grid": tuple(misses), "shift_grid": (3.0,), **more}
        generator = Grid(misses, count)
        best = best_guided(run_config(tmp_path, evaluate=grid), generator, REAL, print)
        return best.guidance_scale, generator.sampled

    return chosen


def test_the_best_three_of_a_hundred_videos_are_sampled_on_all(choose):
    misses = {1.0: (3.0, 3.0), 1.5: (0.2, 0.9), 2.0: (0.4, 0.2), 2.5: (0.3, 0.8), 3.0: (2.0, 0.0)}
    best, sampled = choose(misses, 400)
    assert best == 2.0  # 1.5 is the best of the first, and 3.0 would be the best of the others
    assert sampled == [(0, [*misses], range(100)), (0, [1.5, 2.5, 2.0], range(100, 400))]


def test_whole_batches_decide(choose):
    misses = {scale: (scale, scale) for scale in (0.5, 1.0, 2.0, 4.0)}
    assert [row[2] for row in choose(misses, 400, batch=30)[1]] == [range(120), range(120, 400)]


@pytest.mark.parametrize(("settings", "count"), [(3, 400), (5, 60), (5, 100)])
def test_few_settings_or_few_prompts_have_one_round(choose, settings, count):
    misses = {1.0 + i: (abs(i - 1.1), 5.0) for i in range(settings)}
    best, sampled = choose(misses, count)
    assert best == 2.0 and [row[2] for row in sampled] == [range(count)]


# Features of a part


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    own = {"model__path": str(DIGITS), "model__max_sequence_length": 8}
    config = run_config(
        tmp_path_factory.mktemp("digits"), evaluate={"metric": str(DIGITS / "metric"), "batch": 2}, **own
    )
    prompts = [
        "a seven moving left",
        "a two moving right",
        "a one moving up",
        "a nine moving down",
        "a six moving left",
    ]
    *rows, negative = config.model.encoders.text_encoder().encode([*prompts, ""])
    return config, prompts, rows, negative


def test_a_part_has_the_features_of_the_whole_and_is_kept(digits, tmp_path, monkeypatch):
    config, prompts, rows, negative = digits
    grid = [Candidate("teacher", Sampler(steps, "ode", 2.0)) for steps in ((1000.0, 500.0), (1000.0, 800.0, 400.0))]
    calls, call = [], WanDenoiser.__call__
    whole = [generate._generate(config, each, prompts, rows, negative, 0, None).features for each in grid]
    monkeypatch.setattr(WanDenoiser, "__call__", lambda *args, **more: calls.append(1) or call(*args, **more))
    ask = lambda videos: generate.generate_features(  # noqa: E731
        config, grid, prompts, rows, negative, 0, tmp_path, videos
    )
    parts = [ask(range(2)), ask(range(2, 5))]
    torch.testing.assert_close(torch.cat(parts, dim=1), torch.stack(whole), rtol=1e-5, atol=1e-5)
    assert len(calls) == 3 * (5 - 1)  # three batches; of 2 + 3 steps the first is one call
    assert torch.equal(ask(range(2, 5)), parts[1]) and len(calls) == 12
    ask(range(2, 4))
    assert len(calls) == 16 and len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("slots", "settings", "videos", "parts"),
    [
        (2, 9, range(100), [50, 50]),
        (2, 3, range(100, 400), [150, 150]),
        (1, 9, range(100), [50, 50]),  # nine settings of a hundred videos are more than one sampler's 400
        (64, 3, range(100, 390), [50, 50, 50, 50, 50, 40]),
        (4, 3, range(100, 400), [100, 100, 100]),
    ],
)
def test_parts_are_as_many_as_the_cluster_runs_at_once(tmp_path, monkeypatch, slots, settings, videos, parts):
    started = []
    task = SimpleNamespace(remote=lambda *args: started.append(args[-1]))
    ray = SimpleNamespace(remote=lambda **_: lambda call: task, cluster_resources=lambda: {"CPU": float(slots)})
    monkeypatch.setattr(generate, "ray", ray)
    generator = object.__new__(generate.Generator)
    generator._config, generator.prompts = run_config(tmp_path), ["a"] * 400
    generator._rows = generator._negative = generator._keep = None
    generator.start_features([Candidate("teacher", Sampler((1000.0,), "ode"))] * settings, 0, videos)
    assert [len(part) for part in started] == parts and [i for part in started for i in part] == list(videos)
    assert np.ptp([part.start % 50 for part in started]) == 0


def test_all_other_samplers_start_before_the_choice(tmp_path, monkeypatch):
    """No GPU is idle while grids and real clips are waited for."""
    started = []

    class Starts:
        prompts, real = ["a"], REAL

        def __init__(self, *_):
            pass

        def start(self, candidate, seed, **_):
            started.append((candidate.role, candidate.sampler.nfe, seed))

    class Chosen(Exception):
        pass

    def choose(*_):
        raise Chosen

    monkeypatch.setattr(compare, "Generator", Starts)
    monkeypatch.setattr(compare, "best_guided", choose)
    config = run_config(tmp_path, evaluate={"metric": DIGITS / "metric"})
    with pytest.raises(Chosen):
        compare.evaluate(config, None, tmp_path / "step", tmp_path)
    assert len(started) == len(set(started)) + 3  # the student before and after training has one sampler
    assert {seed for *_, seed in started} == {1, 2, 3} and max(nfe for _, nfe, _ in started) == 64
    assert {role for role, *_ in started} == {"teacher", "student"} and len(started) == 12
