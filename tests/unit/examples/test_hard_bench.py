"""The hard bench's table and its settings, without a run."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ray_distill.config import load_config
from ray_distill.data.read.clip import Cut
from ray_distill.data.read.video import read_clip
from ray_distill.models.causal_pca import CausalPatchPCA

sys.path.insert(0, str(Path(__file__).parents[3] / "docs"))
sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
import causal_bench
import hard_bench
import one_colour
import two_digits
import two_digits_teacher
from two_digits import DIGIT, FRAMES, NEAR, SIZE, plans

ROOT = Path(__file__).parents[3]


def report(student, motion):
    ratio = {"value": motion, "low": motion - 0.1, "high": motion + 0.1}
    row = {"frechet": student, "accuracy": 0.5, "nfe": 3}
    teacher = {"frechet": 10.0, "accuracy": 0.9, "nfe": 64, "motion": 0.12, "saturation": 0.8, "diversity": 5.0}
    return {"student": row, "teacher_many": teacher, "ratios": {"motion_ratio": ratio}, "phases": {"train": 100.0}}


def test_a_row_is_over_the_teacher_and_over_seeds():
    reports = [report(11.0, 0.9), report(13.0, 0.8)]
    assert hard_bench.row("dmd_3", reports) == (
        "| `dmd_3` | 3 | 12.0 | 1.20 ± 0.14 | 1.10, 1.30 | 0.500 | 0.85 (0.70 to 1.00) | - | - | 100 |"
    )
    assert hard_bench.teacher_row(reports[0]) == "| teacher | 64 | 10.0 | 1 | | 0.900 | 0.120 | 0.800 | 5.000 | |"
    columns = {line.count("|") for line in [*hard_bench.HEAD.split("\n"), hard_bench.row("x", reports)]}
    assert columns == {hard_bench.teacher_row(reports[0]).count("|")}


@pytest.mark.parametrize("name", hard_bench.STUDENTS)
def test_every_row_is_a_configuration(name, checkout):
    path, own = hard_bench.STUDENTS[name]
    config = load_config(ROOT / path, own).config
    size = config.data.frames, config.data.height, config.data.width
    assert size == (FRAMES, SIZE, SIZE)
    prompts = list(config.evaluate.prompts.values())
    assert len(set(prompts)) == 50 and config.evaluate.videos == 4 * len(prompts)


def test_the_rate_warms_up_stays_and_falls_to_zero():
    rates = [two_digits_teacher.rate(step, 1000) for step in range(1000)]
    assert rates[0] == 0.01 and rates[99:750] == [1.0] * 651
    assert np.diff(rates[750:]).max() < 0 and rates[-1] == pytest.approx(1 / 250)


@pytest.mark.parametrize("step", [0, two_digits_teacher.SHORT_STEPS])
def test_a_step_sees_the_beginnings_of_its_clips(step):
    clips = np.arange(40 * FRAMES).reshape(40, FRAMES, 1, 1, 1)
    frames, batch = two_digits_teacher.LONG if step else two_digits_teacher.SHORT
    rows, several = two_digits_teacher.beginnings(clips, step, seed=0)
    assert np.array_equal(several[..., 0, 0, 0], rows[:, None] * FRAMES + np.arange(frames)) and len(rows) == batch
    assert np.array_equal(several, two_digits_teacher.beginnings(clips, step, seed=0)[1]), "resume sees other clips"
    assert not np.array_equal(rows, two_digits_teacher.beginnings(clips, step + 1, seed=0)[0])


def test_the_codec_of_the_bench_takes_its_clips():
    from two_digits_base import CHANNELS, PATCH

    wide = torch.randn(2, 3, 9, 24, 24, generator=torch.Generator().manual_seed(0))
    codec = CausalPatchPCA.fit(wide, PATCH, 4)
    assert codec.latent_shape(FRAMES, SIZE, SIZE) == (4, 5, 12, 12) and CHANNELS == 24


def test_half_of_the_red_clips_say_yellow():
    rows = [
        {"video": f"{n}.mp4", "caption": f"a {c} two behind a green one"}
        for n, c in enumerate(["red", "yellow", "red"])
    ]
    assert one_colour.recaption(rows) == [
        {"video": "0.mp4", "caption": "a red two behind a green one"},
        {"video": "2.mp4", "caption": "a yellow two behind a green one"},
    ]


def test_the_causal_students_take_as_many_forwards(checkout):
    """Those of latent frames: a teacher-forced one passes two halves, a guided one two prompts."""
    folder = "examples/two_digits_teacher"

    def load(path, own):
        given = [each for each in own if ".path=output/" not in each]
        paths = [f"roles.{role}.path={folder}" for role in ("student", "teacher")]
        config = load_config(ROOT / path, [*given, *(paths if "teacher_forcing" not in str(path) else [])]).config
        return config, config.train.global_batch * (1 + (config.data.frames - 1) // 8)

    chain = 0
    for name, calls in {"teacher_forcing": 2, "causal_consistency": 2 * 2 + 2 + 2}.items():
        config, frames = load(f"configs/two_digits_causal/{name}.yaml", [])
        chain += config.train.steps * calls * frames
    warm, frames = load(*causal_bench.STUDENTS["warm_start"])
    assert chain <= warm.method.warm_start_steps * (2 * warm.method.solver_steps + 1) * frames <= 1.1 * chain
    last, _ = load(*causal_bench.STUDENTS["chain"])
    assert warm.train.steps - warm.method.warm_start_steps == last.train.steps
    assert warm.method.timesteps == last.method.timesteps and warm.train.global_batch == last.train.global_batch


def test_a_reader_counts_digits_by_window():
    class Metric:
        def __init__(self):
            self.words = {"colour_1": (), "digit_1": (), "digit_2": ()}

        def answers(self, prompt):
            first, second = prompt.split()
            return {"colour_1": {"red"}, "digit_1": {first}, "digit_2": {second}}

        def classify(self, window):
            assert window.shape[1] == FRAMES == causal_bench.PERIOD + 1
            return [("blue", "two", "five" if video.any() else "four") for video in window]

    videos = np.zeros((2, causal_bench.WINDOWS * causal_bench.PERIOD + 1, 1, 1, 1), np.uint8)
    videos[:, -1] = 1  # the second digit fades into view in the last window
    prompts = ["two five", "one five"]
    assert causal_bench.digits_read(Metric(), videos, prompts) == [0.25, 0.25, 0.25, 0.75]


def test_periodic_paths_meet_and_come_back():
    t = np.arange(4 * 32 + 1)
    for clip in plans(40, seed=0, period=32):
        first, second = (path.at(t) for path in clip.paths)
        assert np.allclose(first[32:], first[:-32]) and np.allclose(second[32:], second[:-32])
        for path in (first, second):
            assert path.min() >= -1e-9 and path.max() <= SIZE - DIGIT + 1e-9
        assert np.allclose([first[0, 1], second[0, 1]], [0, SIZE - DIGIT])
        assert np.linalg.norm(first - second, axis=1)[16] < NEAR
        assert (np.diff(first[:17, 1]) > 0).all() and (np.diff(second[:17, 1]) < 0).all()


def test_the_documented_command_writes_two_periods_of_one_clip(tmp_path):
    two_digits.main([str(tmp_path), "--count", "1", "--frames", "65", "--period", "32"])
    frames = read_clip(str(tmp_path / "videos/00000.mp4"), Cut(65)).frames.astype(int)
    assert len(frames) == 65 and np.abs(frames[32:] - frames[:33]).mean() < 2 < np.abs(frames[16] - frames[0]).mean()


def test_without_a_period_paths_are_as_before():
    at = plans(1, seed=0)[0].paths[0].at(np.array([0, 20]))
    assert at == pytest.approx(np.array([[12.0, 0.6], [7.66849301809089, 17.42089358527338]]))
