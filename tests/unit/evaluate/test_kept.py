"""Latents of an evaluation are kept within a limit: a new measure samples nothing, and no other samples are taken."""

import os
from pathlib import Path

import pytest
import torch

from ray_distill.config.measures import ALL
from ray_distill.evaluate import kept
from ray_distill.evaluate.generate import generate
from ray_distill.evaluate.kept import LatentCache, latent_cache, to_keep
from ray_distill.evaluate.samples import Candidate, latents_name
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.types import Sampler
from tests.unit.toys import run_config

DIGITS = Path(__file__).parents[3] / "examples" / "digits_teacher"
PROMPTS = ["a seven moving left", "a two moving right", "a one moving up"]
SAMPLER = Sampler((1000.0, 500.0), "ode", 2.0)
LATENTS = torch.randn(2, 3, 1, 2, 2, generator=torch.Generator().manual_seed(0))


def config_with(folder, evaluate=None, **more):
    own = {"model__path": str(DIGITS), "model__max_sequence_length": 8, **more}
    return run_config(folder, evaluate={"batch": 2, "pictures": 1, **(evaluate or {})}, **own)


@pytest.fixture
def forwards(monkeypatch):
    """Counts calls of the network."""
    calls, call = [], WanDenoiser.__call__
    monkeypatch.setattr(WanDenoiser, "__call__", lambda *args, **more: calls.append(1) or call(*args, **more))
    return calls


def test_a_new_metric_needs_no_new_sampling(tmp_path, forwards):
    """No forward the second time, and the numbers of an evaluation that measured all at once."""
    config = config_with(tmp_path)
    *rows, negative = config.model.encoders.text_encoder().encode([*PROMPTS, ""])
    teacher, cache = Candidate("teacher", SAMPLER), latent_cache(config, tmp_path / "cache")

    def ask(names, evaluate=None, seed=1, keep="keep", latents=cache):
        asked = config_with(tmp_path, evaluate)
        return generate(asked, teacher, PROMPTS, rows, negative, seed, tmp_path / keep, names, latents)

    first = ask(("motion",))
    assert len(forwards) == 2 * 2 and list(first.measures) == ["motion"] and first.features is None
    again = ask(ALL, {"metric": str(DIGITS / "metric"), "pictures": 3})
    assert len(forwards) == 4 and len(again.videos) == 3
    whole = ask(ALL, {"metric": str(DIGITS / "metric"), "pictures": 3}, keep="elsewhere", latents=None)
    assert len(forwards) == 8
    assert torch.equal(again.features, whole.features) and (again.videos == whole.videos).all()
    assert all(torch.equal(again.measures[name], whole.measures[name]) for name in ALL)
    ask(ALL, seed=2)
    assert len(forwards) == 12
    for path in cache.folder.iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    assert torch.equal(ask(("flicker",)).measures["flicker"], whole.measures["flicker"]) and len(forwards) == 16


def test_the_name_changes_with_all_that_latents_depend_on(tmp_path):
    """And with nothing else: neither metrics nor the training's settings."""
    steps = []
    for content in ("one", "two"):
        steps.append(tmp_path / content / "step_00000007")
        steps[-1].mkdir(parents=True)
        (steps[-1] / "manifest.json").write_text(content)
    averaged = {"roles__student__ema_decay": 0.9}
    student, base = Candidate("student", SAMPLER, steps[0]), config_with(tmp_path, **averaged)
    name = latents_name(base, student, PROMPTS, 1)
    others = [
        latents_name(base, Candidate("student", SAMPLER, steps[1]), PROMPTS, 1),
        latents_name(base, Candidate("student", SAMPLER, steps[0], averaged=False), PROMPTS, 1),
        latents_name(base, Candidate("student", SAMPLER), PROMPTS, 1),
        latents_name(base, Candidate("student", Sampler((1000.0,), "ode", 2.0), steps[0]), PROMPTS, 1),
        latents_name(base, student, PROMPTS[:2], 1),
        latents_name(base, student, PROMPTS, 2),
        latents_name(config_with(tmp_path, {"frames": 17}, **averaged), student, PROMPTS, 1),
        latents_name(config_with(tmp_path, roles__student__dtype="bfloat16", **averaged), student, PROMPTS, 1),
        latents_name(config_with(tmp_path, roles__student__lora={"rank": 2}, **averaged), student, PROMPTS, 1),
        latents_name(config_with(tmp_path, model__text_encoder_precision="bfloat16", **averaged), student, PROMPTS, 1),
        latents_name(config_with(tmp_path, model__vae_tiling=True, **averaged), student, PROMPTS, 1),
    ]
    assert len({name, *others}) == len(others) + 1
    measured = {"metric": str(DIGITS / "metric"), "metrics": ["motion"], "pictures": 3}
    assert latents_name(config_with(tmp_path, measured, train__steps=9, **averaged), student, PROMPTS, 1) == name


def test_the_least_used_files_go_first(tmp_path):
    size = 1000
    cache = LatentCache(tmp_path / "cache", 3 * size)
    assert cache.load("a") is None
    for age, name in enumerate("abc"):
        cache.save(name, LATENTS, 0.25)
        os.utime(tmp_path / "cache" / f"{name}.safetensors", (age, age))
    assert all(path.stat().st_size < size for path in cache.folder.iterdir())
    latents, seconds = cache.load("a")  # used now, so b is the oldest
    assert torch.equal(latents, LATENTS) and seconds == 0.25
    LatentCache(cache.folder, 3 * max(path.stat().st_size for path in cache.folder.iterdir())).save("d", LATENTS, 0.25)
    assert sorted(path.stem for path in cache.folder.iterdir()) == ["a", "c", "d"]
    LatentCache(cache.folder, LATENTS.nbytes - 1).save("e", LATENTS, 0.25)  # alone above the limit: no file goes for it
    assert sorted(path.stem for path in cache.folder.iterdir()) == ["a", "c", "d"]


def test_a_full_disk_costs_the_file_and_not_the_evaluation(tmp_path, monkeypatch, caplog):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept.sealed, "write_tensors", full)
    LatentCache(tmp_path, 10_000).save("a", LATENTS, 0.25)
    assert "samples are not kept: [Errno 28]" in caplog.text


def test_student_and_teacher_come_first_where_not_all_fit(tmp_path):
    compared = ("teacher_same_nfe", "teacher_many", "student")
    each = 4 * 16 * 3 * 6 * 6 * 400 + 4096  # latents of 400 videos
    for fitting, names in ((0, set()), (4, {"teacher_many", "student"}), (6, {"teacher_many", "student"})):
        config = config_with(tmp_path, {"keep_gib": (fitting + 0.5) * each / 2**30})
        chosen, line = to_keep(config, compared, ("student", "teacher_many"), 400)
        assert len(chosen) == fitting and {name for name, _ in chosen} <= {*names} and "evaluate.keep_gib=0.1" in line
    chosen, line = to_keep(config_with(tmp_path), compared, ("student", "teacher_many"), 400)
    assert chosen == {(name, seed) for name in compared for seed in (1, 2, 3)} and line is None
    assert to_keep(config_with(tmp_path, {"keep_gib": 0}), compared, (), 400) == (set(), None)
