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


def summary(report: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a report: ``evaluate/student/frechet`` by sampler, and the run's own, ``run/train_seconds``."""
    numbers: dict[str, float] = {}
    for name, value in flatten(report).items():
        section, dot, rest = name.partition(".")
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if section == "phases":
            numbers[f"run/{rest.partition(':')[0]}_seconds"] = value
        else:
            numbers[f"evaluate/{section}/{rest}" if dot else f"run/{name}"] = value
    return numbers


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
