"""What a teacher made is kept, under a name that all that it depends on changes."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from ray_distill.config.load import config_of
from ray_distill.config.schema import RunConfig
from ray_distill.data.read.track import Track
from ray_distill.evaluate import generate
from ray_distill.evaluate.samples import Candidate, Samples, kept_name
from ray_distill.evaluate.videos import write_videos
from ray_distill.types import Sampler
from tests.unit.toys import settings

SAMPLER = Sampler((1000.0, 500.0), "ode")


@pytest.fixture
def config(tmp_path):
    (tmp_path / "teacher").mkdir()

    def make(**changed):
        return config_of(RunConfig, settings(tmp_path, model__path=str(tmp_path / "teacher"), **changed))

    return make


@pytest.mark.parametrize("features", [torch.randn(4, 3), None])
def test_what_was_made_comes_back(tmp_path, features):
    made = Samples(features, 0.5, None, 0.01, np.arange(12, dtype=np.uint8).reshape(1, 1, 2, 2, 3))
    made.save(tmp_path / "made.safetensors")
    again = Samples.load(tmp_path / "made.safetensors")
    assert (again.features is None) if features is None else torch.equal(again.features, features)
    assert np.array_equal(again.videos, made.videos) and again.tracks == ()
    assert (again.accuracy, again.diversity, again.seconds_per_video) == (0.5, None, 0.01)
    assert [path.name for path in tmp_path.iterdir()] == ["made.safetensors"]


def test_sound_comes_back_and_is_heard_in_the_videos(tmp_path):
    tone = (0.5 * np.sin(np.arange(12_000) * 0.1)).astype(np.float32)
    tracks = tuple(Track(np.stack([tone, scale * tone]), 24_000) for scale in (0, 1))
    made = Samples(None, None, None, 0.01, np.zeros((2, 12, 24, 24, 3), np.uint8), tracks=tracks)
    made.save(tmp_path / "made.safetensors")
    again = Samples.load(tmp_path / "made.safetensors")
    assert [track.rate for track in again.tracks] == [24_000, 24_000]
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(again.tracks, tracks, strict=True))
    write_videos(tmp_path / "videos", again, ["a dog", "a cat"], 24)
    for name, right in (("00_a_dog.mp4", 0), ("01_a_cat.mp4", 1)):
        with av.open(str(tmp_path / "videos" / name)) as container:
            heard = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
        assert heard.shape[1] >= 12_000 and (heard[1].std() > 0.2) == right and heard[0].std() > 0.2


def test_the_name_changes_with_all_that_the_videos_depend_on(config):
    base = kept_name(config(), Candidate("teacher", SAMPLER), ["a"], 1)
    others = [
        kept_name(config(), Candidate("teacher", Sampler((1000.0, 400.0), "ode")), ["a"], 1),
        kept_name(config(), Candidate("teacher", SAMPLER), ["b"], 1),
        kept_name(config(), Candidate("teacher", SAMPLER), ["a"], 2),
        kept_name(config(data__height=48), Candidate("teacher", SAMPLER), ["a"], 1),
        kept_name(config(), Candidate("teacher", SAMPLER), ["a"], 1, ["motion"]),
    ]
    judge = config().model.path.parent / "judge"
    judge.mkdir()
    judged = config(evaluate={"networks": {"subject": str(judge)}})
    others.append(kept_name(judged, Candidate("teacher", SAMPLER), ["a"], 1, ["motion"]))
    (judge / "weights").write_text("other")
    others.append(kept_name(judged, Candidate("teacher", SAMPLER), ["a"], 1, ["motion"]))
    assert kept_name(judged, Candidate("teacher", SAMPLER), ["a"], 1) == base  # samples without measures
    (config().model.path / "weights").write_text("other")
    others.append(kept_name(config(), Candidate("teacher", SAMPLER), ["a"], 1))
    assert base not in others and len(set(others)) == len(others)
    assert others[-1] == kept_name(config(train__steps=7, seed=9), Candidate("teacher", SAMPLER), ["a"], 1)


def test_what_training_moves_is_not_kept(config):
    assert kept_name(config(), Candidate("student", SAMPLER, Path("step_1")), ["a"], 1) is None


def test_a_teacher_that_is_a_single_file_is_told_from_another(tmp_path, config):
    """Of its bytes in the middle, too."""
    file, names = tmp_path / "teacher.safetensors", []
    for place in (0, 1 << 21, 1 << 22):
        file.write_bytes(bytes(place) + b"1" + bytes((1 << 22) - place))
        given = {"roles__teacher": {"zero": 0, "path": str(file)}}
        names.append(kept_name(config(**given), Candidate("teacher", SAMPLER), ["a"], 1))
    assert len(set(names)) == 3


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: whole[:-20], lambda whole: whole[:-1] + b"\x07"])
def test_what_is_kept_and_damaged_is_made_again(tmp_path, config, monkeypatch, damage):
    made, calls = Samples(torch.randn(4, 3), 0.5, None, 0.01, np.zeros((1, 1, 2, 2, 3), np.uint8)), []
    monkeypatch.setattr(generate, "_generate", lambda *_: calls.append(1) or made)
    ask = lambda: generate.generate(config(), Candidate("teacher", SAMPLER), ["a"], None, None, 1, tmp_path / "keep")  # noqa: E731
    assert torch.equal(ask().features, made.features) and torch.equal(ask().features, made.features)
    assert len(calls) == 1
    (path,) = (tmp_path / "keep").iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert torch.equal(ask().features, made.features) and len(calls) == 2
    assert torch.equal(ask().features, made.features) and len(calls) == 2


def test_videos_of_other_prompts_go(tmp_path):
    samples = Samples(None, None, None, 0.1, np.zeros((3, 4, 24, 24, 3), np.uint8))
    write_videos(tmp_path, samples, ["a", "b", "c"], 8)
    (tmp_path / "notes.txt").write_text("")
    write_videos(tmp_path, samples, ["a", "d"], 8)
    assert {path.name for path in tmp_path.iterdir()} == {"00_a.mp4", "01_d.mp4", "prompts.json", "notes.txt"}
