#!/usr/bin/env bash
# Metrics that are not finite, logged to MLflow's SQLite store and read back: as they are, in a search, and where two values tie.
# Versions: mlflow 3.17.2.
# Guess: infinity comes back as infinity; of two values of one step and one time the one that was logged last is the latest.
# Seen: infinity comes back as 1.797e308, which is finite. The latest of a tie is the larger one, and NaN counts as 0 there: beside 1 it is not
# shown, beside -1 it hides it, whichever was logged first. `!= 0` finds a NaN, and no other comparison does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2
cd "$folder"
MLFLOW_TRACKING_URI="sqlite:///$folder/mlflow.db" "$folder/venv/bin/python" - <<'PYTHON'
import logging
import math
import sys

import mlflow

logging.disable(logging.INFO)
INFINITY, NAN = math.inf, math.nan
client = mlflow.MlflowClient()
experiment = client.create_experiment("findings")


def latest(*values):
    """The value that a run shows after these, all of one step and one time."""
    run = client.create_run(experiment).info.run_id
    for value in values:
        client.log_metric(run, "loss", value, timestamp=1000, step=1)
    return client.get_run(run).data.metrics["loss"]


print(f"mlflow {mlflow.__version__}")
for values, expected in (
    ((INFINITY,), sys.float_info.max),
    ((-INFINITY,), -sys.float_info.max),
    ((NAN,), NAN),
    ((5.0, 3.0), 5.0),
    ((1.0, NAN), 1.0),
    ((NAN, 1.0), 1.0),
    ((-1.0, NAN), NAN),
    ((NAN, -1.0), NAN),
):
    seen = latest(*values)
    print(f"{', '.join(map(str, values))}: {seen}")
    assert seen == expected or (math.isnan(seen) and math.isnan(expected)), f"expected {expected}"
    assert not math.isinf(seen)

searched = client.create_experiment("searched")
for value in (INFINITY, NAN, 1.0):
    client.log_metric(client.create_run(searched).info.run_id, "loss", value)
for comparison, expected in (("< 2", [1.0]), ("> 2", [sys.float_info.max]), ("= 0", []), ("!= 0", [1.0, sys.float_info.max, NAN])):
    found = sorted((run.data.metrics["loss"] for run in client.search_runs([searched], f"metrics.loss {comparison}")), key=lambda x: (math.isnan(x), x))
    print(f"loss {comparison}: {found}")
    assert str(found) == str(expected), f"expected {expected}"
PYTHON
