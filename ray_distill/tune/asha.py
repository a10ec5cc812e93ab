"""ASHA (arXiv 1810.05934) that recovers its trials' measurements after a restart, and stops a trial at NaN."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from ray_distill.train.driver.validations import read
from ray_distill.tune.objective import Objective
from ray_distill.tune.space import Sweep
from ray_distill.tune.trial import OBJECTIVE, TIME, run_name


class Asha(ASHAScheduler):
    """ASHA that reads the earlier rungs of each trial that is added again."""

    def __init__(self, runs: Path, aim: Objective, first_rung: int, steps: int, reduction: int) -> None:
        super().__init__(time_attr=TIME, grace_period=first_rung, max_t=steps, reduction_factor=reduction)
        self.runs, self.aim = runs, aim

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        for row in read(self.runs / run_name(trial.trial_id)):
            # Its earlier decision stands: an ended trial stays ended, and a trial that continued continues.
            if not self.aim.lacks(row):
                self.on_trial_result(tune_controller, trial, {**row, OBJECTIVE: self.aim.score(row)})

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """STOP if the objective is not finite: Ray's own ASHA continues such a trial, and compares others with it."""
        if not math.isfinite(result.get(OBJECTIVE, 0.0)):
            return self.STOP
        return super().on_trial_result(tune_controller, trial, result)


def scheduler(settings: Sweep, steps: int) -> TrialScheduler | None:
    """The scheduler; None, which runs every trial to its end, if the sweep names no rung."""
    if settings.first_rung is None:
        return None
    return Asha(settings.home / "runs", settings.aim, settings.first_rung, steps, settings.reduction)
