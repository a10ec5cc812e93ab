"""The hard bench's table and its settings, without a run."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ray_distill.config import load_config
from ray_distill.models.causal_pca import CausalPatchPCA

sys.path.insert(0, str(Path(__file__).parents[3] / "docs"))
sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
import hard_bench
import two_digits_teacher
from two_digits import FRAMES, SIZE

ROOT = Path(__file__).parents[3]


def report(student, motion):
    ratio = {"value": motion, "low": motion - 0.1, "high": motion + 0.1}
    row = {"frechet": student, "accuracy": 0.5, "nfe": 3}
    teacher = {"frechet": 10.0, "accuracy": 0.9, "nfe": 64, "motion": 0.12, "saturation": 0.8, "diversity": 5.0}
    return {"student": row, "teacher_many": teacher, "ratios": {"motion": ratio}, "phases": {"train": 100.0}}


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


def test_an_epoch_shows_every_clip_once_in_an_order_of_its_own():
    batch, clips = two_digits_teacher.BATCH, 10 * two_digits_teacher.BATCH
    first, second = (torch.cat([two_digits_teacher.rows_of(e * 10 + i, clips, 0) for i in range(10)]) for e in (0, 1))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(clips)) and not torch.equal(first, second)
    assert torch.equal(two_digits_teacher.rows_of(3, clips, 0), first[3 * batch : 4 * batch])


def test_the_codec_of_the_bench_takes_its_clips():
    from two_digits_base import CHANNELS, PATCH

    wide = torch.randn(2, 3, 5, 24, 24, generator=torch.Generator().manual_seed(0))
    codec = CausalPatchPCA.fit(wide, PATCH, 4)
    assert codec.latent_shape(FRAMES, SIZE, SIZE) == (4, 9, 8, 8) and CHANNELS == 32
