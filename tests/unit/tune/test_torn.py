"""A sweep outlives its own state files."""

import json

from ray_distill.tune import sweep as module
from ray_distill.tune.report import write_trials
from ray_distill.tune.space import Sweep
from ray_distill.tune.trial import FILE
from tests.unit.toys import run_config

SPACE = {"method.teacher_guidance": {"uniform": [1.0, 2.0]}}


def settings(home, **keys):
    tree = {"name": "s", "base": str(home / "base.yaml"), "output_dir": str(home), "trials": 2, "space": SPACE}
    (home / "base.yaml").write_text("")
    return Sweep.model_validate(tree | keys)


def test_a_torn_trial_is_named_and_left_out(tmp_path, caplog):
    sweep = settings(tmp_path)
    for name, text in (
        ("a", json.dumps({"point": {"x": 1}, "error": None})),
        ("b", ""),
        ("c", '{"point": {"x"'),
        ("d", "{}"),
    ):
        (sweep.home / "runs" / name).mkdir(parents=True)
        (sweep.home / "runs" / name / FILE).write_text(text)
    (sweep.home / "runs/a/validations.jsonl").write_text('{"step": 5, "frechet": 2.0}\n{"step": 10, "fre')
    (trial,) = module.trials_of(sweep, 5)
    assert (trial.name, trial.status, trial.objective) == ("a", "done", 2.0)
    assert all(str(sweep.home / "runs" / name / FILE) in caplog.text for name in "bcd")
    assert "validations.jsonl: torn or damaged lines" in caplog.text
    write_trials(sweep.home / "trials.json", [trial])
    assert json.loads((sweep.home / "trials.json").read_text())[0]["name"] == "a"


def test_a_torn_sweep_json_is_no_other_sweeps(tmp_path, caplog):
    sweep, base = settings(tmp_path), run_config(tmp_path, track__uri="")
    for text in (None, "", '{"sweep": {}', "{}"):
        sweep.home.mkdir(parents=True, exist_ok=True)
        if text is not None:
            (sweep.home / module.SWEEP).write_text(text)
        module._tracker(sweep, base)
        assert json.loads((sweep.home / module.SWEEP).read_text())["run_id"] is None
    assert caplog.text.count("sweep.json is torn or damaged") == 3
