"""The Ray that a command uses: the running one, or one of its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from ray_distill.bars import stopwatch
from ray_distill.train.driver.console import silent_core
from ray_distill.train.driver.signals import own_session

ALONE = {
    # By default Ray ends workers that are idle for a second while no CPU is free, and starts others for the next phase,
    # which import everything again: 25 to 30 processes prepared the quick start's clips in place of 17. With 30 s so
    # many stood beside a training's actors that the raylet warned of their number.
    "RAY_idle_worker_killing_time_threshold_ms": "15000",
    # It looks for notices that a node will go, in an actor of its own; here the node is this machine.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
"""Environment of a Ray on this machine alone, where the user has not set it."""


@contextmanager
def cluster(log_to_driver: bool = False, dashboard: bool = False) -> Iterator[None]:
    """Use the running Ray (a job's, or the caller's), else start one on this machine that ends with this process.

    Output of Ray's processes stays in the log files of its session, so the terminal shows only our lines. Without a
    dashboard Ray Train cannot see that a controller died, and keeps its workers' resources, so sweeps need one.
    """
    if ray.is_initialized():
        yield
        return
    # Without an address ray.init would attach to any Ray on this host.
    address = os.environ.get("RAY_ADDRESS") or "local"
    local: dict[str, Any] = {"include_dashboard": dashboard} if address == "local" else {}
    for name, value in ALONE.items() if local else ():
        os.environ.setdefault(name, value)
    with (
        stopwatch(f"== {'start Ray on this machine' if local else f'join Ray ({address})'}"),
        own_session(),
        silent_core(),
    ):
        ray.init(
            address=address,
            logging_level=logging.ERROR,
            logging_config=ray.LoggingConfig(log_level="ERROR"),
            log_to_driver=log_to_driver,
            **local,
        )
    try:
        yield
    finally:
        ray.shutdown()
