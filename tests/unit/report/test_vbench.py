"""VBench's results of a run's videos: its file's format, the paired ratios, and what was not run."""

import json

import numpy as np
import pytest

from ray_distill.config import ConfigError
from ray_distill.evaluate.samples import Samples
from ray_distill.evaluate.videos import write_videos
from ray_distill.report.page import write_page
from ray_distill.report.tables import vbench
from ray_distill.report.vbench import dimensions
from tests.unit.report.runs import PROMPT_TEXTS, Page, whole

FILES = [f"{number:02d}_p.mp4" for number in range(len(PROMPT_TEXTS))]


def results(run, sampler, name="results_2026-01-01-10:00:00", **scores):
    """A file as VBench's evaluate.py writes it: {dimension: [mean, [{video_path, video_results}, ...]]}."""
    folder = run / "vbench" / sampler
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        dimension: [
            mean,
            [{"video_path": f"/elsewhere/{f}", "video_results": v} for f, v in zip(FILES, values, strict=True)],
        ]
        for dimension, (mean, values) in scores.items()
    }
    (folder / f"{name}_eval_results.json").write_text(json.dumps(content))
    (folder / f"{name}_full_info.json").write_text("[]")


@pytest.fixture
def run(tmp_path):
    return whole(tmp_path)


def test_an_evaluation_s_folder_is_what_vbench_reads(tmp_path):
    """--mode custom_input takes all files of these endings, and asks --prompt_file for each of their names."""
    prompts = ["a red kite", "a red kite", 'say: "go" / stop?']
    videos = np.full((3, 5, 24, 24, 3), 90, np.uint8)
    write_videos(tmp_path / "videos", Samples(None, None, None, 0.1, videos), prompts, 8)
    files = {f.name for f in (tmp_path / "videos").iterdir() if f.suffix.lower() in (".mp4", ".gif", ".jpg", ".png")}
    names = json.loads((tmp_path / "videos/prompts.json").read_text())
    assert set(names) == files and [names[file] for file in sorted(files)] == prompts


def test_a_dimension_is_a_ratio_over_prompts_and_a_rate_a_difference(run):
    results(run, "student", subject_consistency=(0.9, [0.92, 0.88]), dynamic_degree=(0.5, [True, False]))
    results(run, "teacher_many", subject_consistency=(0.95, [1.0, 0.9]), dynamic_degree=(1.0, [True, True]))
    found = {each.name: each for each in dimensions(run)}
    assert (found["subject_consistency"].student, found["subject_consistency"].teacher) == (0.9, 0.95)
    ratio = found["subject_consistency"].compared
    assert (
        ratio.value == pytest.approx(1.8 / 1.9)
        and ratio.low == pytest.approx(0.92)
        and ratio.high == pytest.approx(0.88 / 0.9)
    )
    assert found["dynamic_degree"].compared.value == -0.5 and found["dynamic_degree"].is_difference
    line = Page(write_page(run).read_text()).line
    assert "subject_consistency 0.9000 0.9500 ratio 0.947 0.920 to 0.978 less than the teacher" in line
    assert "dynamic_degree 0.5000 1.000 difference -0.500 -1.000 to 0.000 no difference seen" in line
    assert "not run - - - - - aesthetic_quality, background_consistency, human_action" in line


def test_a_later_file_replaces_its_dimensions_and_percents_are_shares(run):
    results(run, "student", name="a", imaging_quality=(0.6, [60, 60]), aesthetic_quality=(0.5, [0.5, 0.5]))
    results(run, "student", name="b", imaging_quality=(0.5, [40.0, 60.0]))
    results(run, "teacher_many", imaging_quality=(0.5, [50.0, 50.0]))
    found = {each.name: each for each in dimensions(run)}
    assert found["imaging_quality"].student == 0.5 and found["imaging_quality"].compared.value == pytest.approx(1.0)
    assert found["aesthetic_quality"].teacher is None and found["aesthetic_quality"].compared is None


def test_without_results_there_is_no_table(run):
    assert dimensions(run) == [] and vbench([]).rows == []
    assert "VBench" not in Page(write_page(run).read_text()).line


def test_a_file_of_something_else_and_other_videos_are_refused(run):
    results(run, "student", aesthetic_quality=("high", [1, 2]))
    with pytest.raises(ConfigError, match=r"aesthetic_quality is not \[mean, videos\], as VBench writes it"):
        dimensions(run)
    results(run, "student", aesthetic_quality=(0.5, [0.4, 0.6]))
    path = next((run / "vbench/student").glob("*_eval_results.json"))
    path.write_text(path.read_text().replace("00_p.mp4", "99_p.mp4"))
    with pytest.raises(
        ConfigError, match="has the video 99_p.mp4, which .* has not; run VBench on the run's own videos"
    ):
        dimensions(run)
