#!/usr/bin/env bash
# Trials that end with NaN, an infinity, no objective or an error, in Ray Tune's search by Optuna.
# Versions: Ray 2.60.0, Optuna 5.0.0.
# Guess: a trial whose objective is NaN, or is missing, counts as failed, and one of minus infinity is refused.
# Seen: NaN is refused by a line of log, and the trial stays RUNNING in the study for ever, with one objective and with two;
# a trial without its objective counts as PRUNED; minus infinity is COMPLETE, and the best of a study that minimises.
# Only a trial that raises is FAIL.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "ray[tune]==2.60.0" optuna==5.0.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import logging
import math

import optuna
import ray
from ray.tune.search.optuna import OptunaSearch

logging.getLogger("ray").setLevel(logging.ERROR)
optuna.logging.set_verbosity(optuna.logging.ERROR)
X = {"x": optuna.distributions.FloatDistribution(0, 1)}


def ended(metric, mode, result, error=False):
    """State of the one trial of a study, and its values, once it has ended with ``result``."""
    search = OptunaSearch(metric=metric, mode=mode, space=X, seed=0)
    search.suggest("trial")
    search.on_trial_complete("trial", result, error=error)
    (trial,) = search._ot_study.trials
    return trial.state.name, trial.values


print(f"Ray {ray.__version__}, Optuna {optuna.__version__}")
one, two = ("loss", "min"), (["a", "b"], ["min", "max"])
for name, seen, expected in (
    ("NaN", ended(*one, {"loss": math.nan}), ("RUNNING", None)),
    ("NaN as one of two objectives", ended(*two, {"a": math.nan, "b": 1.0}), ("RUNNING", None)),
    ("no objective", ended(*one, {"other": 1.0}), ("PRUNED", None)),
    ("minus infinity", ended(*one, {"loss": -math.inf}), ("COMPLETE", [-math.inf])),
    ("an error", ended(*one, None, error=True), ("FAIL", None)),
):
    print(f"{name}: {seen[0]}, values {seen[1]}")
    assert seen == expected, f"expected {expected}"
PYTHON
