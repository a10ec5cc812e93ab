"""Processes of an evaluation's tasks: no other tasks run in them, and they import what networks need and no more."""

from __future__ import annotations

import os
from typing import Any

from ray_distill.collector import at_rest
from ray_distill.evaluate.allocation import keep_freed_memory
from ray_distill.models.light_diffusers import import_networks

OWN = "_RAY_DISTILL_EVALUATION"
"""Environment variable that these processes have, and no others: no key, so without the prefix of the configuration."""

APART: dict[str, Any] = {"scheduling_strategy": "DEFAULT", "runtime_env": {"env_vars": {OWN: "1"}}}
"""Ray's options for the tasks of an evaluation. Without "DEFAULT" a trial's tasks would have to fit into its driver's
placement group. Ray shares a process only between tasks of one environment, and a process whose diffusers knows neither
transformers nor peft could encode no prompts."""


def set_up_sampling() -> None:
    """Prepare the process of a task that samples, the first time; elsewhere only its allocator changes."""
    keep_freed_memory()
    if OWN in os.environ:
        with at_rest():
            import_networks()
