import json
import math
from dataclasses import replace

import pytest
from PIL import Image

from ray_distill.config import load_config
from ray_distill.tune.report import Trial, parallel_plot, short, table, write_best, write_trials
from ray_distill.tune.space import Range
from tests.unit.toys import run_config

RATE = "roles.student.optimizer.learning_rate"
SPACE = {
    RATE: Range(loguniform=(1e-5, 1e-3)),
    "method.teacher_guidance": Range(uniform=(1.0, 2.0)),
    "method.student_interval": Range(choice=(3, 5, 10)),
}


def trial(name, rate, distances, status, error=None):
    rows = [{"step": 100 * i, "frechet": distance} for i, distance in enumerate(distances, 1)]
    point = {RATE: rate, "method.teacher_guidance": 1.5, "method.student_interval": 5}
    last = distances[-1] if distances else math.inf
    return Trial(name, point, rows, status, error, last, (), last)


TRIALS = [
    trial("stopped", 1e-5, [20.0], "pruned"),
    trial("worse", 1e-4, [60.0, 31.0], "done"),
    trial("broken", 1e-3, [], "failed", "ValueError: no"),
    trial("best", 2e-4, [50.0, 30.25], "done"),
]


def test_who_came_further_stands_first():
    ordered = sorted(TRIALS, key=lambda t: t.rank)
    assert [t.name for t in ordered] == ["best", "worse", "stopped", "broken"]
    lines = table(ordered).splitlines()
    assert lines[0].split()[:2] == ["trial", "student"] and len(lines) == 6
    assert lines[2].split() == ["best", "0.0002", "1.5", "5", "200", "30.25", "done"]
    assert lines[-1].split() == ["broken", "0.001", "1.5", "5", "0", "-", "failed"]
    assert short(RATE) == "student learning_rate"


def test_a_trial_that_breaks_a_constraint_stands_behind_and_says_so():
    broken = replace(TRIALS[3], broken=("motion_ratio 0.900, and the constraint is at least 0.95",), score=1e9)
    ordered = sorted([broken, *TRIALS[:3]], key=lambda t: t.rank)
    assert [t.name for t in ordered] == ["worse", "best", "stopped", "broken"]
    line = table(ordered, "objective").splitlines()[3]
    assert line.endswith("30.25  done; motion_ratio 0.900, and the constraint is at least 0.95")


@pytest.mark.parametrize("trials", [TRIALS, TRIALS[-1:], [trial("nan", 1e-4, [math.nan], "done")]])
def test_the_plot_is_a_picture(tmp_path, trials):
    parallel_plot(tmp_path / "p.png", trials, SPACE)
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.size[0] > 500 and len(picture.convert("L").getcolors(100_000)) > 10


def test_files(tmp_path):
    write_trials(tmp_path / "trials.json", TRIALS)
    told = json.loads((tmp_path / "trials.json").read_text())
    assert told[3]["rows"][1] == {"step": 200, "frechet": 30.25} and told[2]["error"] == "ValueError: no"
    config = run_config(tmp_path)
    write_best(tmp_path / "best.yaml", config, TRIALS[3])
    assert load_config(tmp_path / "best.yaml", environment={}).config == config
    assert "# best: Fréchet distance 30.25 at step 200" in (tmp_path / "best.yaml").read_text()
