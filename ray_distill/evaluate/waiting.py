"""Wait for tasks of an evaluation, behind a bar."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray

from ray_distill.bars import Bar


def wait_for(tasks: Sequence[Any], timeout_s: float, shown: Bar, each: int) -> list[Any]:
    """Results of ``tasks`` in order. The bar advances by ``each`` when a task ends, and its clock each second.

    GetTimeoutError if no task ends within ``timeout_s``.
    """
    waiting, moved = list(tasks), time.monotonic()
    while waiting and time.monotonic() - moved < timeout_s:
        ended, waiting = ray.wait(waiting, timeout=1)
        if ended:
            moved = time.monotonic()
            shown.update(each * len(ended))
        shown.refresh()
    results: list[Any] = ray.get(list(tasks), timeout=0 if waiting else timeout_s)
    return results
