"""A trial that fails leaves its point and its error, wherever it fails."""

import json
from types import SimpleNamespace

import pytest
from ray import tune

from ray_distill.config import ConfigError
from ray_distill.tune.report import table
from ray_distill.tune.space import Sweep
from ray_distill.tune.sweep import trials_of
from ray_distill.tune.trial import FILE, Plan, run_trial
from tests.unit.toys import run_config

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
