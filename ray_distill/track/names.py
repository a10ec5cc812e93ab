"""Names of metrics, grouped by role for MLflow's pages, and tags of a run's source."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from typing import Any

from ray_distill.config.keys import flatten
from ray_distill.types import STUDENT, Role


def grouped(name: str, roles: Collection[Role], method: str = "") -> str:
    """A row's name with a group, which MLflow reads before the ``/``: ``fake_score_lr`` -> ``fake_score/lr``.

    A name that starts with a role belongs to it. Names with the method's name, and losses of no role, belong to the
    student: ``dmd_loss`` -> ``student/dmd_loss``. Others go to ``train/``; a name that has a group keeps it.
    """
    if "/" in name:
        return name
    for role in sorted(roles, key=len, reverse=True):  # one role's name may begin with another's
        if name.startswith(f"{role}_"):
            return f"{role}/{name.removeprefix(f'{role}_')}"
    own = name.endswith("_loss") or (method and name.startswith(f"{method}_"))
    return f"{STUDENT}/{name}" if own else f"train/{name}"


SUMMARY = {
    "frechet": "student.frechet",
    "frechet_of_teacher": "teacher_many.frechet",
    "accuracy": "student.accuracy",
    "motion_ratio": "ratios.motion_ratio.value",
    "nfe": "student.nfe",
    "steps": "steps",
    "wall_seconds": "wall_seconds",
}
"""Columns of MLflow's list of runs, by their places in a report. Each makes a chart of one bar, so they are few."""
Table = dict[str, list[Any]]
"""``columns`` and ``data``, row by row: a JSON file that MLflow shows as a table."""


def summary(report: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a report that MLflow's list of runs shows, ``summary/frechet``, those that it has."""
    flat = flatten(report)
    return {f"summary/{name}": flat[place] for name, place in SUMMARY.items() if _is_number(flat.get(place))}


def tables(report: Mapping[str, Any]) -> dict[str, Table]:
    """All numbers of a report as tables by name: ``evaluation`` has a row for each sampler, ``comparisons`` one for
    each ratio and distance with its interval, ``run`` the seconds of each phase and the run's own numbers. A table
    without rows is left out."""
    samplers: dict[str, dict[str, Any]] = {}
    intervals: list[list[Any]] = []
    own: list[list[Any]] = []
    for name, value in report.items():
        if name == "phases":
            own += [[f"seconds of {phase.partition(':')[0]}", seconds] for phase, seconds in value.items()]
        elif isinstance(value, Mapping):
            samplers[name] = {key: number for key, number in value.items() if _is_number(number)}
            intervals += [
                [name, key, *(each.get(bound) for bound in ("value", "low", "high"))]
                for key, each in value.items()
                if isinstance(each, Mapping)
            ]
        elif _is_number(value):
            own.append([name.replace("_", " "), value])
    names = list(dict.fromkeys(key for row in samplers.values() for key in row))
    rows = [[name, *(row.get(key) for key in names)] for name, row in samplers.items() if row]
    every: dict[str, Table] = {
        "evaluation": {"columns": ["sampler", *names], "data": rows},
        "comparisons": {"columns": ["of", "measure", "value", "low", "high"], "data": intervals},
        "run": {"columns": ["number", "value"], "data": own},
    }
    return {name: table for name, table in every.items() if table["data"]}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def source_tags() -> dict[str, str]:
    """MLflow's own tags for the user, program and commit of a run."""
    tags = {
        "mlflow.user": _user(),
        "mlflow.source.name": os.path.basename(sys.argv[0]) or "python",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": commit(),
    }
    return {name: value for name, value in tags.items() if value}


def commit() -> str:
    """The commit of the working directory, or ``""``.

    ``$GIT_COMMIT`` wins, as build servers set it: the working directory of a Ray job is a copy without ``.git``.
    """
    if sha := os.environ.get("GIT_COMMIT"):
        return sha
    return _git("rev-parse", "HEAD")


def uncommitted() -> bool:
    """True where files of the working directory's repository differ from its commit."""
    return bool(_git("status", "--porcelain", "--untracked-files=no"))


def _git(*arguments: str) -> str:
    """Standard output of a git command in the working directory; "" where it fails."""
    try:
        git = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):  # no git on this machine, or a file system that hangs
        return ""
    return git.stdout.strip() if git.returncode == 0 else ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry in the password file
        return ""
