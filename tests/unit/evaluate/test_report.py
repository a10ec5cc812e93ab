"""The pictures have the size, the frames and the curves that they should; the table says what the report holds."""

import json

import numpy as np
import pytest
from PIL import Image

from ray_distill.config.evaluate import Goals
from ray_distill.evaluate.curves import _counts, bars_of, groups_of_run, loss_plot, run_figure, running_mean
from ray_distill.evaluate.report import (
    ROWS,
    contact_sheet,
    heading,
    line,
    measured_heading,
    misses,
    table,
    write_report,
)


def videos(value: int, count: int = 2) -> np.ndarray:
    """Frame t has the grey ``value + t``, so that every frame is known again."""
    out = np.zeros((count, 9, 24, 24, 3), np.uint8)
    out += np.arange(9, dtype=np.uint8)[None, :, None, None, None] + np.uint8(value)
    return out


def test_contact_sheet_shows_first_middle_and_last_frame_of_each_video(tmp_path):
    path = tmp_path / "new" / "sheet.png"
    contact_sheet(path, {"teacher": videos(50), "student": videos(150)}, ["a three moving right", "a seven"])
    sheet = np.asarray(Image.open(path).convert("RGB"))
    greys, counts = np.unique(sheet[(sheet == sheet[..., :1]).all(-1)][:, 0], return_counts=True)
    shown = dict(zip(greys.tolist(), counts.tolist(), strict=True))
    for grey in (50, 54, 58, 150, 154, 158):  # 24x24 frames are magnified by 4, one for each of the two prompts
        assert 2 * 96 * 96 <= shown[grey] < 2 * 96 * 96 + 200
    assert 51 not in shown or shown[51] < 200
    assert (sheet[:, :150] < 100).any(axis=-1).sum() > 200  # the prompts
    assert (sheet[:60] < 100).any(axis=-1).sum() > 200  # the headings
    assert (sheet[:, :10] == 255).all() and (sheet[-10:] == 255).all()


def test_contact_sheet_names_the_column_that_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match=r"student.*2 prompts.*float32"):
        contact_sheet(tmp_path / "x.png", {"student": videos(0).astype(np.float32)}, ["a", "b"])
    with pytest.raises(ValueError, match="3 prompts"):
        contact_sheet(tmp_path / "x.png", {"student": videos(0)}, ["a", "b", "c"])
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet(tmp_path / "x.png", {}, ["a"])


@pytest.mark.parametrize("names", [1, 2, 5])
def test_loss_plot_draws_one_panel_a_name(tmp_path, names):
    path = tmp_path / "loss.png"
    rows = [{"step": s} | {f"role{n}_loss": (n + 1) * 10.0 ** (-s / 40) for n in range(names)} for s in range(100)]
    rows[7] |= {"role0_loss": float("nan"), "loss_by_sigma/0.0-0.2": 1.0}  # parts of another value have no panel
    rows[9].pop("role0_loss")
    loss_plot(path, rows)
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    down = -(-names // 3)
    assert picture.shape[1] == 504 * 3 and picture.shape[0] == int((2.3 * down + 0.45) * 120)
    blue = (picture[..., 2] - picture[..., 0]) > 100
    for n in range(names):  # every panel has a curve, and the panels left over are empty
        assert blue[300 * (n // 3) :, 504 * (n % 3) : 504 * (n % 3 + 1)].sum() > 300
    if names == 5:
        assert not blue[340:, 1008:].any()


def test_curves_come_in_groups_without_those_that_are_zero_throughout():
    rows = [
        {"step": s, "student_lr": 1e-3, "skipped": 0.0, "student_grad_norm": 2.0, "fake_score_loss": 1.0, "dmd_loss": s}
        for s in (0, 1)
    ]
    validations = [{"step": 1, "motion_ratio": 0.9, "frechet": 20.0, "accuracy": 0.9}, {"step": 2, "frechet": 19.0}]
    groups = groups_of_run(rows, validations)
    assert {title: list(curves) for title, curves in groups.items()} == {
        "Quality of the validations": ["frechet", "motion_ratio"],
        "Losses": ["dmd_loss", "fake_score_loss"],
        "Gradient norms": ["student_grad_norm"],
        "Other values": ["student_lr"],
    }
    assert groups["Quality of the validations"]["frechet"] == ([1, 2], [20.0, 19.0])
    assert groups["Losses"]["dmd_loss"] == ([0, 1], [0, 1])
    assert groups_of_run([{"step": 0, "loss": 0.0}]) == {"Losses": {"loss": ([0], [0.0])}}  # zeros still have a plot


def test_bars_show_the_samplers_at_the_end(tmp_path):
    report = {"teacher_many": {"frechet": 22.0, "motion": None, "nfe": 64}, "student": {"frechet": 20.6, "nfe": 3}}
    names = ["teacher, 64 evaluations", "student, 3 evaluations"]
    assert bars_of(report) == {"Fréchet distance to real clips": (names, [22.0, 20.6])}
    assert bars_of({"steps": 3}) == {}
    figure = run_figure(groups_of_run([{"step": s, "dmd_loss": 1.0} for s in range(3)]), bars_of(report))
    titles = [part.get_suptitle() for part in figure.subfigs]
    assert titles == ["The student and its teacher at the end", "Losses"]
    bars, losses, *empty = figure.axes
    assert [patch.get_width() for patch in bars.patches] == [22.0, 20.6]
    assert [text.get_text() for text in bars.texts] == ["22", "20.6"] and not any(axis.get_visible() for axis in empty)
    assert losses.get_title("left") == "dmd_loss"


def test_a_sampler_has_a_heading_and_a_line_in_words():
    assert heading("teacher_same_steps_guided", 6) == "teacher, guided, 6 evaluations"
    assert heading("student", 1) == "student, 1 evaluation"
    text = line("student", row(20.6, 0.61, None, 10.8, 3, 0.00213) | {"jitter": 0.01})
    assert text == ("   student: FD 20.6, spread of FD 0.61, diversity 10.8, nfe 3, seconds per video 0.00213")


def test_a_columns_heading_has_what_was_measured():
    assert measured_heading("student", {"frechet": 20.6, "accuracy": 0.98, "nfe": 3}) == (
        "student, 3 evaluations\nFD 20.6, accuracy 0.980"
    )
    assert measured_heading("teacher_many", {"frechet": None, "nfe": 64}) == "teacher, 64 evaluations"


def test_loss_plot_refuses_nothing(tmp_path):
    with pytest.raises(ValueError, match="finite"):
        loss_plot(tmp_path / "x.png", [{"step": 0, "loss": float("inf")}])


def test_running_mean_is_as_long_as_its_input_and_keeps_a_constant():
    assert np.allclose(running_mean([3.0] * 100), 3.0)
    assert running_mean([1.0]).tolist() == [1.0] and len(running_mean(range(61))) == 61
    assert running_mean(range(61))[30] == 30 and running_mean(range(61))[0] == 1.0


def row(frechet, spread, accuracy, diversity, nfe, seconds):
    return {
        "frechet": frechet,
        "frechet_spread": spread,
        "accuracy": accuracy,
        "diversity": diversity,
        "nfe": nfe,
        "seconds_per_video": seconds,
    }


REPORT = {
    "teacher_many": row(25.1, 1.5, 0.956, 4.5, 64, 0.31),
    "teacher_same_nfe": row(142.0, None, 0.697, 6.25, 3, 0.02),
    "teacher_same_steps_guided": row(32.9, 0.9, 0.972, 3.5, 6, 0.03),
    "student_before": row(150.2, 2.0, 0.6, 6.0, 3, 0.02),
    "student": row(25.5, 0.9, 0.957, 4.25, 3, 0.02),
    "seeds": [1, 2, 3],
    "steps": 800,
    "student_updates": 160,
    "wall_seconds": 95.3,
    "memory_gib": 0.81,
}


def test_table_is_aligned_and_complete():
    lines = table(REPORT).splitlines()
    assert lines[0].split() == ["sampler", "FD", "accuracy", "diversity", "nfe", "s/video"]
    assert [line.split("  ")[0] for line in lines[2:7]] == list(ROWS.values())
    assert lines[6].split()[1:] == ["25.5", "+-", "0.9", "0.957", "4.25", "3", "0.020"]
    assert len({len(line) for line in lines[:7]}) == 1
    assert len({line.index(".") for line in lines[2:7]}) == 1  # the points of the distances stand below one another
    assert lines[7] == "160 student updates, 800 steps, 95.3 s in all, 0.81 GiB a worker, 3 sampling seeds"


def test_a_table_without_a_metric_has_what_needs_none():
    seen = row(None, None, None, None, 3, 0.02) | {"motion": 0.8184, "saturation": 0.4019}
    head, _, student = table({"student": seen}).splitlines()
    assert head.split() == ["sampler", "motion", "saturation", "nfe", "s/video"]
    assert student.split() == ["student", "0.818", "0.402", "3", "0.020"]
    head, _, student = table({"student": row(None, None, None, 4.0, 3, 0.02)}).splitlines()
    assert head.split()[1:4] == ["FD", "accuracy", "diversity"] and student.split()[1:4] == ["-", "-", "4.00"]


def test_table_of_a_run_that_was_not_evaluated_has_no_empty_head():
    assert table({"steps": 8, "student_updates": 4}) == "4 student updates, 8 steps"


def test_report_is_json_that_every_reader_takes(tmp_path):
    path = tmp_path / "run" / "report.json"
    write_report(path, REPORT | {"student_before": row(float("nan"), None, np.float32(0.5), 6.0, 3, 0.02)})
    read = json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(text))
    assert read["student"] == REPORT["student"]
    assert read["student_before"]["frechet"] is None and read["student_before"]["accuracy"] == 0.5


def test_missed_names_each_goal_that_was_not_reached():
    goals = Goals(frechet_ratio=1.15, frechet_margin=4.0, accuracy=0.9)
    assert misses(REPORT, goals) == []
    worse = REPORT | {"student": REPORT["student"] | {"frechet": 60.0, "accuracy": 0.5}}
    assert [line.split("; ")[1] for line in misses(worse, goals)] == [
        "the goal is at most 1.15",
        "the goal is at least 4.0",
        "the goal is at least 0.9",
    ]
    assert misses(worse, Goals()) == []
    ratios = {"ratios": {"motion_ratio": {"value": 0.9, "low": 0.8, "high": 1.0}}}
    within = {"motion_ratio": {"at_least": 0.95}, "diversity_ratio": {"at_least": 0.9, "at_most": 1.1}}
    assert misses(REPORT | ratios, Goals(within={"motion_ratio": {"at_least": 0.9}})) == []
    assert misses(REPORT | ratios, Goals(within=within)) == [
        "its motion_ratio is 0.900; the goal is at least 0.95",
        "its diversity_ratio is unknown, since the teacher's diversity is almost 0",
    ]


def test_a_draw_is_shown_by_how_often_each_value_came():
    from matplotlib.figure import Figure

    axis = Figure().subplots()
    _counts(axis, [0.0, 2.0, 2.0, 1.0], [0, 5, 10, 15])
    assert [bar.get_height() for bar in axis.patches] == [0.25, 0.25, 0.5]
    assert [text.get_text() for text in axis.texts] == ["0", "1", "2"]
