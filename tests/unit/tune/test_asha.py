"""The scheduler knows what trials measured before the sweep was killed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import ASHAScheduler

from ray_distill.evaluate.names import VALIDATIONS
from ray_distill.tune.asha import Asha
from ray_distill.tune.objective import Objective
from ray_distill.tune.trial import OBJECTIVE, TIME, run_name


def scheduler(runs: Path) -> Asha:
    asha = Asha(runs, Objective({"frechet": 1.0}, {}), first_rung=4, steps=8, reduction=2)
    asha.set_search_properties(OBJECTIVE, "min")
    return asha


def test_a_new_scheduler_compares_with_the_trials_of_the_killed_one(tmp_path: Path) -> None:
    good = SimpleNamespace(trial_id="good")
    folder = tmp_path / run_name(good.trial_id)
    folder.mkdir()
    (folder / VALIDATIONS).write_text(json.dumps({TIME: 4, "frechet": 20.0}) + "\n")

    def decision(asha: Asha, name: str, distance: float) -> str:
        trial = SimpleNamespace(trial_id=name)
        asha.on_trial_add(None, trial)
        return asha.on_trial_result(None, trial, {TIME: 4, OBJECTIVE: distance})

    assert decision(scheduler(tmp_path), "bad", 90.0) == Asha.CONTINUE  # nothing to compare with
    restored = scheduler(tmp_path)
    restored.on_trial_add(None, good)
    assert decision(restored, "bad", 90.0) == Asha.STOP
    assert decision(restored, "better", 10.0) == Asha.CONTINUE


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_trial_that_measures_nothing_finite_is_stopped_and_compared_with_by_none(
    tmp_path: Path, value: float
) -> None:
    """Ray's own scheduler lets such a trial go on."""
    theirs = ASHAScheduler(time_attr=TIME, metric=OBJECTIVE, mode="min", grace_period=4, max_t=8, reduction_factor=2)
    ours = scheduler(tmp_path)
    for asha, expected in ((theirs, ASHAScheduler.CONTINUE), (ours, ASHAScheduler.STOP)):
        decisions = []
        for name, distance in (("lost", value), ("one", 50.0), ("worse", 60.0)):
            trial = SimpleNamespace(trial_id=name)
            ASHAScheduler.on_trial_add(asha, None, trial)
            decisions.append(asha.on_trial_result(None, trial, {TIME: 4, OBJECTIVE: distance}))
        assert decisions[0] == expected
    assert decisions == [ASHAScheduler.STOP, ASHAScheduler.CONTINUE, ASHAScheduler.STOP]
