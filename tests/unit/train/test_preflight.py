"""Words and thresholds of a preflight, and what its comparison is made of; tests/ray runs one whole."""

import json
import socket
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ray_distill.config import ConfigError, RunConfig
from ray_distill.config.load import config_of
from ray_distill.config.measures import ALL
from ray_distill.data.prepare import pipeline
from ray_distill.evaluate.generate import _generate
from ray_distill.evaluate.latents import NotFinite
from ray_distill.export.teacher import compared_size, link_teacher
from ray_distill.importers import load_run
from ray_distill.models.loading import load_transformer
from ray_distill.report.page import write_page
from ray_distill.train import launch, looks
from ray_distill.train import preflight as module
from ray_distill.train.cycles import Clock, Cycles, RoleCycles, aside, by_role, compared
from ray_distill.train.looks import Findings, judge, look_at_data
from tests.unit.report.runs import Page
from tests.unit.toys import run_config

DIGITS = Path(__file__).parents[3] / "examples" / "digits_teacher"
GOOD = dict.fromkeys(ALL, 0.5)


def judged(tmp_path, within=None, **means):
    seen = Findings()
    judge(GOOD | means, run_config(tmp_path, evaluate={"preflight": {"within": within or {}}}), seen)
    return seen


def test_a_teacher_that_moves_and_has_colour_is_left_in_peace(tmp_path):
    assert judged(tmp_path) == Findings()


@pytest.mark.parametrize(
    ("means", "words"),
    [
        ({"motion": 0.004}, "the teacher is static: motion 0.0040"),
        ({"moving": 0.0}, "the teacher is static: motion 0.5000 short sides a second, 0% of its videos move"),
        ({"moving": 0.33}, "the teacher is static in most videos: 33% of them move"),
        ({"saturation": 0.01}, "the teacher's videos are grey"),
    ],
)
def test_a_static_or_grey_teacher_is_named_and_stops_nothing(tmp_path, means, words):
    seen = judged(tmp_path, **means)
    assert len(seen.warnings) == 1 and words in seen.warnings[0] and seen.errors == []


def test_a_threshold_that_the_user_sets_stops(tmp_path):
    within = {"motion": {"at_least": 0.6}, "clipped": {"at_most": 0.9}}
    seen = judged(tmp_path, within)
    assert seen.errors == ["the teacher's motion is 0.5, and evaluate.preflight asks for at least 0.6"]
    assert judged(tmp_path, within, motion=0.7).errors == []


def test_a_measure_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ValueError, match="preflight.within"):
        run_config(tmp_path, evaluate={"preflight": {"within": {"motoin": {"at_least": 1}}}})


def test_captions_that_are_cut_are_counted_and_warned_of():
    card = {"clips": 5, "skipped": 0, "buckets": {"4x3x6x6": 5}, "captions": 4, "captions_cut": 2}
    seen = Findings()
    look_at_data(card | {"tokens": {"median": 6, "most": 19, "taken": 8}}, seen)
    assert seen.lines[1] == "captions: 6 tokens in the median, 19 at most; the model takes 8, so 2 captions are cut"
    assert seen.warnings[0].startswith("2 captions have more tokens than model.max_sequence_length")
    look_at_data(card | {"captions_cut": 0}, old := Findings())  # a cache of before lengths were counted
    assert len(old.lines) == 1 and old.warnings == []


def test_clips_are_counted_by_their_motion(tmp_path, monkeypatch):
    """A static clip, a slow one and one that moves; a clip whose file has changed does not count."""
    still = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    still = cv2.GaussianBlur(still, (0, 0), 2)
    clips = [np.stack([np.roll(still, speed * t, axis=1) for t in range(6)]) for speed in (0, 1, 3)]
    rows = [{"pixels": clip, "error": ""} for clip in clips] + [{"pixels": clips[0], "error": "it has changed"}]
    monkeypatch.setattr(pipeline, "real_videos", lambda data, cache: SimpleNamespace(take=lambda most: rows[:most]))
    config = run_config(tmp_path, data__fps=8)
    looks.look_at_motion(config, None, seen := Findings())
    assert seen.numbers["clips_motion"] == {
        "clips": 3,
        "moving": 1,
        "static": 1,
        "median": pytest.approx(8 / 48, rel=0.2),
    }
    assert "1 of them move, 1 are static" in seen.lines[0]
    assert seen.warnings == [
        "2 of 3 clips hardly move, and methods that learn from clips will learn that: choose clips with more motion"
    ]

    def gone(data, cache):
        raise ValueError("data: none of the cache's clips is in its sources any more")

    monkeypatch.setattr(pipeline, "real_videos", gone)
    looks.look_at_motion(config, None, seen := Findings())
    assert seen.lines[0].startswith("motion of clips was not measured: data: none") and not seen.warnings
    none = run_config(tmp_path, evaluate={"preflight": {"clips": 0}})
    looks.look_at_motion(none, None, seen := Findings())
    looks.count_moving(np.array([]), 0, seen)
    assert seen == Findings()


# Cycles


def test_cycles_are_the_runs_own_steps_and_leave_nothing_outside_their_folder(tmp_path):
    config = run_config(tmp_path, method__student_interval=7, train__steps=800)
    own = aside(config)
    assert own.train.steps == own.train.checkpoint_every == 21
    assert own.run_dir == config.run_dir / "preflight" / "cycles" and own.track.uri == "" and own.publish is None
    assert own.train.role_seconds and not config.train.role_seconds
    assert not own.evaluate.enabled and own.evaluate.every is None
    assert (own.method, own.roles, own.data) == (config.method, config.roles, config.data)
    assert config_of(RunConfig, own.dump(secrets=True)).run_dir == own.run_dir  # as each worker reads it
    assert aside(run_config(tmp_path, method__student_interval=7, train__steps=9)).train.steps == 9


def test_seconds_of_a_step_start_with_the_first_rows(tmp_path):
    clock, file = Clock(tmp_path / "metrics.jsonl"), tmp_path / "metrics.jsonl"
    clock.look(0.0)
    for now, rows in ((60.0, 2), (61.0, 2), (64.0, 7), (70.0, 10), (80.0, 10)):
        file.write_text("".join(f'{{"step": {step}}}\n' for step in range(rows)))
        clock.look(now)
        if now < 64:
            assert clock.seconds is None
    assert clock.seconds == pytest.approx((70 - 60) / (10 - 2))


def test_the_plan_stands_beside_the_measurement():
    lines, numbers = compared(None, Cycles(15, None, 2**30, 10**9), gpu=True)
    assert lines == ["15 steps of training: too fast to be measured, 1.00 GiB a worker"] and "flops" not in numbers
    plan = SimpleNamespace(flops={"student": 3e12, "teacher": 1e12}, checkpoint=10**9)
    lines, numbers = compared(plan, Cycles(15, 2.0, 2**30, 11 * 10**8), gpu=True)
    assert lines[1:] == [
        "as planned: 4 TFLOP of a worker in a step, so 2 TFLOP/s",
        "a checkpoint: 1.1 GB, planned 1 GB",
    ]
    assert numbers == {
        "steps": 15,
        "seconds": 2.0,
        "memory": 2**30,
        "checkpoint": 11 * 10**8,
        "roles": {},
        "flops": 4e12,
    }


def test_roles_stand_beside_the_plan():
    """Six steps, the student in two of them; the first update of each, which is slow, does not count."""
    fake, student = (9.0, 0.5, 0.5, 0.5, 0.5, 0.5), {0: 30.0, 5: 2.0}
    rows = [{"step": step, "seconds/fake_score": seconds} for step, seconds in enumerate(fake)]
    rows = [row | ({"seconds/student": student[row["step"]]} if row["step"] in student else {}) for row in rows]
    for step, peak in ((0, 3 * 2**30), (5, 2 * 2**30)):
        rows[step]["bytes/student"] = float(peak)
    sizes = {"student-0000-000.safetensors": 10**9, "student-0001-000.safetensors": 10**9, "state.json": 10**6}
    roles = by_role(rows, sizes | {"fake_score-0000-000.safetensors": 3 * 10**9})
    assert roles == {
        "fake_score": RoleCycles(0.5, 1.0, 3 * 10**9),
        "student": RoleCycles(2.0, 1 / 3, 2 * 10**9, 3 * 2**30),
    }
    assert by_role(rows[:1], {})["student"].seconds == 30.0 and by_role([], sizes) == {}
    measured, plan = Cycles(6, 1.0, 2**30, 10**9, roles), SimpleNamespace(flops={}, checkpoint=10**9)
    plan.update_flops, plan.checkpoints = {"student": 1e12, "fake_score": 2e12}, {"student": 2 * 10**9}
    plan.update_peaks = {"student": 5 * 2**29}
    assert compared(plan, measured, gpu=True)[0][-1] == (
        "student: 2 s an update, in 33% of the steps, planned 3 TFLOP, so 1.5 TFLOP/s; "
        "2 GB of a checkpoint, planned 2 GB; peak 3.00 GiB of a worker, planned 2.50 GiB"
    )
    lines, numbers = compared(None, measured, gpu=True)
    assert lines[1] == "fake_score: 0.5 s an update, in 100% of the steps; 3 GB of a checkpoint"
    assert lines[2].endswith("2 GB of a checkpoint; peak 3.00 GiB of a worker")
    of_student = {"seconds": 2.0, "share": 1 / 3, "checkpoint": 2 * 10**9, "peak": 3 * 2**30}
    assert numbers["roles"]["student"] == of_student


# The first phase of a run


def test_a_new_run_on_gpus_looks_first_and_a_resumed_one_does_not(tmp_path, monkeypatch):
    looked_at = []
    monkeypatch.setattr(looks, "first_look", lambda config, cache: looked_at.append(config))
    for step, gpu, first in ((0, True, True), (4, True, True), (0, False, True), (0, True, False)):
        monkeypatch.setattr(launch, "_resumed_step", lambda config, step=step: step)
        config = run_config(tmp_path, train__use_gpu=gpu, evaluate={"preflight": {"first": first}})
        launch._look_first(config, None, None, launch.Phases())
    assert len(looked_at) == 1


def test_clips_are_measured_for_validations_before_training_takes_the_cpus(tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(launch, "real_features", lambda config, cache: measured.append(config.evaluate))
    for every, metric in ((5, "metric"), (None, "metric"), (5, None)):
        config = run_config(tmp_path, evaluate={"every": every, "metric": metric})
        launch._look_first(config, None, None, launch.Phases())
    assert [(each.every, each.metric.name) for each in measured] == [(5, "metric")]


def test_a_first_look_warns_and_stops_at_a_threshold_of_the_user_s(tmp_path, monkeypatch, capsys):
    def look(config, cache, seen, samples):
        assert samples == config.evaluate.enabled
        seen.lines.append("data: 5 clips")
        judge(GOOD | {"moving": 0.3}, config, seen)

    monkeypatch.setattr(looks, "look", look)
    looks.first_look(run_config(tmp_path, evaluate={"enabled": False}), None)
    looks.first_look(run_config(tmp_path), None)
    assert "warning: the teacher is static in most videos" in capsys.readouterr().err
    config = run_config(tmp_path, evaluate={"preflight": {"within": {"motion": {"at_least": 0.6}}}})
    with pytest.raises(ConfigError, match=r"motion is 0\.5, .*\(evaluate\.preflight\.first=false trains without"):
        looks.first_look(config, None)
    assert json.loads((config.run_dir / "preflight/preflight.json").read_text())["errors"]


# The clip that both samplers make


def test_the_teacher_is_linked_and_its_recipe_is_the_evaluations(tmp_path):
    evaluate = {"teacher_guidance": 4.0, "teacher_shift": 5.0, "preflight": {"steps": 3}}
    config = run_config(tmp_path, model__path=str(DIGITS), evaluate=evaluate, data__negative_prompt="blurry")
    folder = link_teacher(config, tmp_path / "linked", (9, 24, 24))
    assert (folder / "transformer").resolve() == DIGITS / "transformer"
    recipe = json.loads((folder / "recipe.json").read_text())
    assert recipe["timesteps"] == pytest.approx([1000, 1000 * 10 / 11, 1000 * 5 / 7])
    assert (recipe["guidance_scale"], recipe["kind"], recipe["negative_prompt"]) == (4.0, "ode", "blurry")
    assert (folder / recipe["base"]).resolve() == DIGITS and (folder / "sample.py").is_file()
    assert compared_size(config.model.pipeline, (9, 24, 24)) == (9, 24, 24)


def test_a_teacher_with_loras_is_written_with_them_merged(tmp_path):
    file, layer = tmp_path / "style.safetensors", "blocks.0.attn1.to_q"
    width = load_transformer("wan", DIGITS).get_submodule(layer).in_features
    a, b = torch.randn(2, width), torch.randn(width, 2)
    save_file({f"transformer.{layer}.lora_A.weight": a, f"transformer.{layer}.lora_B.weight": b}, file)
    config = run_config(tmp_path, model__path=str(DIGITS), model__loras=[{"path": str(file), "weight": 0.5}])
    folder = link_teacher(config, tmp_path / "linked", (9, 24, 24))
    whole, published = (load_transformer("wan", each).get_submodule(layer).weight for each in (folder, DIGITS))
    assert torch.allclose(whole, published + 0.5 * b @ a, atol=1e-6)


# A whole preflight, its Ray left out


class Local:
    """Stands for Generator: samples in this process, as a Ray task would."""

    def __init__(self, config, cache):
        self.config, self.prompts = config, ["a seven moving left", "a <b>two</b>"]
        encoder = config.model.encoders.text_encoder()
        *self.rows, self.negative = encoder.encode([*self.prompts, ""])

    def start(self, candidate, seed):
        return _generate(self.config, candidate, self.prompts, self.rows, self.negative, seed, ALL)


@pytest.fixture
def looked(tmp_path, monkeypatch):
    card = {"clips": 5, "skipped": 0, "buckets": {"16x3x6x6": 5}, "captions": 4, "captions_cut": 0}
    card |= {"tokens": {"median": 5, "most": 5, "taken": 8}}
    cache = SimpleNamespace(card=card, captions=lambda: ["a seven moving left"])
    for name, value in {
        "check": lambda config: None,
        "check_cache": lambda config, cache: None,
        "cluster": nullcontext,
        "cache_of": lambda config: cache,
    }.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(looks, "Generator", Local)
    monkeypatch.setattr(looks.ray, "get", lambda task, timeout: task)

    def connect(*args):
        raise AssertionError("a preflight asks no other machine")

    monkeypatch.setattr(socket.socket, "connect", connect)

    def look(own=None, **evaluate):
        settings = {"compare": False, "cycles": 0, "clips": 0} | evaluate.pop("preflight", {})
        evaluate = {"teacher_steps": 2, "teacher_guidance": 1.5, "preflight": settings} | evaluate
        model = {"model__path": str(DIGITS), "model__max_sequence_length": 8}
        config = run_config(tmp_path, **model, evaluate=evaluate, **(own or {}))
        return module.preflight(config), config.run_dir / "preflight"

    return look


def test_it_samples_the_teacher_says_what_it_saw_and_writes_it_down(looked):
    goals = {"metric": str(DIGITS / "metric"), "goals": {"accuracy": 0.9}}  # without a metric they would be refused
    seen, folder = looked(preflight={"within": {"motion": {"at_least": 9}}}, **goals)
    numbers = json.loads((folder / "preflight.json").read_text())
    assert seen.errors == [
        f"the teacher's motion is {numbers['teacher']['motion']:.4g}, and evaluate.preflight asks for at least 9"
    ]
    assert [text[:30] for text in seen.warnings] == ["the teacher's videos are grey "]
    assert any("guidance u + s (c - u), s = 1.5" in line for line in seen.lines)
    assert numbers["teacher"]["nfe"] == 4 and numbers["lines"] == seen.lines and numbers["errors"] == seen.errors
    assert sorted(path.name for path in (folder / "teacher_many").iterdir()) == [
        "00_a_seven_moving_left.mp4",
        "01_a_b_two_b_.mp4",
        "prompts.json",
    ]
    assert (folder / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_metric_it_samples_and_a_method_without_a_teacher_has_data_and_plan(looked):
    seen, folder = looked()
    assert (folder / "teacher_many").is_dir() and "teacher" in seen.numbers and not seen.errors
    alone = {"name": "alone", "method": {"name": "flow_matching"}}
    alone["roles"] = {"student": {"optimizer": {"learning_rate": 1e-4}}}
    seen, folder = looked(alone, preflight={"compare": True})
    assert "method 'flow_matching' has no teacher: nothing is sampled" in seen.lines and not seen.errors
    assert "data" in seen.numbers and seen.numbers["planned"]["memory"] > 0 and "difference" not in seen.numbers
    assert [path.name for path in folder.iterdir()] == ["preflight.json"]


def test_14b_has_its_plan_alone_where_no_machine_samples_it(looked, tmp_path):
    """No weights, no sample, no cycle: numbers, words and a page, of published sizes."""
    none = ["samples=false", "compare=false", "cycles=0", "clips=0"]
    overrides = [f"output_dir={tmp_path}", *(f"evaluate.preflight.{each}" for each in none)]
    config = load_run(DIGITS.parents[1] / "configs/wan2.1_14b/dmd.yaml", overrides, {}).config
    seen = module.preflight(config)
    assert seen.errors == [] and seen.numbers["planned"]["memory"] > 20 * 2**30
    assert [path.name for path in (config.run_dir / "preflight").iterdir()] == ["preflight.json"]
    line = Page(write_page(config.run_dir).read_text()).line
    assert "not trained yet" in line and any(text.startswith("plan: ") for text in seen.lines)
    assert all(" ".join(text.split()) in line for text in seen.lines)


def test_bounds_of_samples_that_are_not_drawn_are_refused(tmp_path):
    within = {"samples": False, "within": {"motion": {"at_least": 1}}}
    with pytest.raises(ValueError, match="within bounds the teacher's samples; set samples: true"):
        run_config(tmp_path, evaluate={"preflight": within})


def test_samples_that_are_not_finite_stop(looked, monkeypatch):
    def start(self, candidate, seed):
        raise NotFinite("2 of 2 samples are not finite")

    monkeypatch.setattr(Local, "start", start)
    seen, folder = looked()
    assert seen.errors == ["2 of 2 samples are not finite"] and not (folder / "teacher_many").exists()


@pytest.mark.parametrize(("difference", "stops"), [(2e-6, False), (0.5, True), (float("nan"), True)])
def test_a_sampler_unlike_diffusers_stops(looked, monkeypatch, difference, stops):
    monkeypatch.setattr(module, "verify", lambda folder, prompt, timeout_s: difference)
    monkeypatch.setattr(looks, "sample_teacher", lambda *args: None)
    seen, _ = looked(preflight={"compare": True})
    assert bool(seen.errors) == stops and (not stops or "evaluate.preflight.tolerance = 0.001" in seen.errors[0])


def test_a_comparison_that_cannot_be_made_is_a_warning(looked, monkeypatch):
    def verify(folder, prompt, timeout_s):
        raise RuntimeError("sample.py failed (1):\nTraceback\nMemoryError")

    monkeypatch.setattr(module, "verify", verify)
    monkeypatch.setattr(looks, "sample_teacher", lambda *args: None)
    seen, _ = looked(preflight={"compare": True})
    assert seen.errors == [] and seen.warnings[-1].endswith("pipeline: sample.py failed (1): MemoryError")
