"""A trial that fails leaves its point and its error, wherever it fails."""

import json
import math
from types import SimpleNamespace

import pytest
from ray import tune

from ray_distill.config import ConfigError
from ray_distill.evaluate.names import VALIDATIONS
from ray_distill.tune.asha import scheduler
from ray_distill.tune.report import parallel_plot, table, write_trials
from ray_distill.tune.space import Sweep
from ray_distill.tune.sweep import trials_of
from ray_distill.tune.trial import FILE, OBJECTIVE, Plan, run_trial
from tests.unit.toys import run_config

CONSTRAINTS = {"motion_ratio": {"at_least": 0.9}}
KEY = "method.student_interval"


def test_a_trial_whose_point_is_no_configuration_stands_in_the_table_as_failed(tmp_path, monkeypatch):
    base = run_config(tmp_path, track__uri="")
    sweep = Sweep.model_validate(
        {"name": "s", "base": tmp_path / "base.yaml", "output_dir": tmp_path, "space": {KEY: {"choice": [5, 2.5]}}}
    )
    plan = Plan(sweep.model_dump(mode="json"), base.dump(secrets=True), 1.0, None)
    monkeypatch.setattr(tune, "get_context", lambda: SimpleNamespace(get_trial_id=lambda: "a"))
    with pytest.raises(ConfigError, match="valid integer"):
        run_trial({KEY: 2.5}, plan)
    written = json.loads((tmp_path / "s/runs/trial_a" / FILE).read_text())
    assert written["point"] == {KEY: 2.5} and "valid integer" in written["error"]
    (trial,) = trials_of(sweep, base.train.steps)
    assert (trial.name, trial.status, trial.error) == ("trial_a", "failed", written["error"])
    assert table([trial]).splitlines()[-1].split() == ["trial_a", "2.5", "0", "-", "failed"]


def test_a_trial_that_failed_since_a_measure_was_missing_costs_no_report(tmp_path):
    """Its distance is unknown; the others stand in table and plot."""
    space = {KEY: {"choice": [3, 5]}}
    tree = {"name": "s", "base": tmp_path / "base.yaml", "output_dir": tmp_path, "space": space, "first_rung": 2}
    sweep = Sweep.model_validate(tree | {"constraints": CONSTRAINTS})
    row = {"step": 5, "frechet": 2.0}
    for name, interval, error, more in (
        ("trial_a", 5, None, {"motion_ratio": 1.0}),
        ("trial_b", 3, "ValueError: no", {}),
    ):
        folder = tmp_path / "s/runs" / name
        folder.mkdir(parents=True)
        (folder / FILE).write_text(json.dumps({"point": {KEY: interval}, "error": error}))
        (folder / VALIDATIONS).write_text(json.dumps(row | more) + "\n")
    trials = trials_of(sweep, 5)
    assert [(trial.name, trial.status, trial.objective) for trial in trials] == [
        ("trial_a", "done", 2.0),
        ("trial_b", "failed", math.inf),
    ]
    assert table(trials).splitlines()[-1].split() == ["trial_b", "3", "5", "-", "failed"]
    parallel_plot(tmp_path / "p.png", trials, sweep.space)
    write_trials(tmp_path / "trials.json", trials)
    asha = scheduler(sweep, 5)
    asha.set_search_properties(OBJECTIVE, "min")
    asha.on_trial_add(None, SimpleNamespace(trial_id="b"))  # as when the sweep is resumed
