"""One trial: an ordinary launch in a driver that Tune starts, and its objective; light to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import tune

from ray_distill.jsonl import write_document

OBJECTIVE = "objective"
TIME = "step"
FILE = "trial.json"


@dataclass(frozen=True)
class Plan:
    """The settings that every trial shares. ``sweep`` and ``base`` are unmasked dumps, which nothing prints."""

    sweep: Mapping[str, Any] = field(repr=False)
    base: Mapping[str, Any] = field(repr=False)
    cpus_per_worker: float
    parent_run_id: str | None


def run_trial(point: Mapping[str, Any], plan: Plan) -> None:
    """Train at ``point``, reporting the objective at each rung; a report that ends the trial raises SystemExit.

    ``trial.json`` in the run's folder has its point, and the cause if it fails.
    """
    from ray_distill.config import RunConfig
    from ray_distill.secrets import mask
    from ray_distill.train.launch import Trial, launch
    from ray_distill.tune.space import Sweep, trial_config

    sweep, base = Sweep.model_validate(plan.sweep), RunConfig.model_validate(plan.base)
    name = run_name(tune.get_context().get_trial_id())
    folder = sweep.home / "runs" / name
    _write(folder, point)

    def scored(row: Mapping[str, Any]) -> dict[str, Any]:
        return {**row, OBJECTIVE: sweep.aim.score(row)}

    def report(row: Mapping[str, Any]) -> None:
        if row["step"] < base.train.steps:
            tune.report(scored(row))

    try:
        config = trial_config(sweep, base, point, name, plan.cpus_per_worker)
        rows = launch(config, Trial(plan.parent_run_id, report))["validations"]
    except Exception as error:  # noted for the sweep, and raised again
        _write(folder, point, mask(f"{type(error).__name__}: {error}"))
        raise
    # Tune ends a trial at its last report, which therefore waits until the run is closed.
    tune.report(scored(rows[-1]))


def run_name(trial_id: str) -> str:
    return f"trial_{trial_id}"


def _write(folder: Path, point: Mapping[str, Any], error: str | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_document(folder / FILE, {"point": dict(point), "error": error})
