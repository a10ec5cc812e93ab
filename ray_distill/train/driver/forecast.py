"""The plan for a run's journal, and the imports of its end, made in a thread while the run trains."""

from __future__ import annotations

import functools
import gc
import time
from concurrent.futures import Future

from ray_distill.aside import aside
from ray_distill.collector import at_rest
from ray_distill.config import RunConfig
from ray_distill.report.journal import Journal, planned

LATE_S = 60.0
"""Seconds from the training's beginning after which the forecast no longer waits for a row."""


class Forecast:
    """Seconds of one core in a thread, for which neither the first row nor those after it wait."""

    def __init__(self, config: RunConfig, journal: Journal) -> None:
        self._config, self._journal = config, journal
        self._since = time.monotonic()
        self._future: Future[None] | None = None

    def works(self, trains: bool) -> bool:
        """True while the thread works, which begins once the run ``trains`` or is late: large weights take minutes to
        load, with idle cores, and a run that fails then has its plan. Raises the thread's error."""
        if self._future is None and (trains or time.monotonic() - self._since > LATE_S):
            self._future = aside(self._make)
        if self._future is None or not self._future.done():
            return self._future is not None
        self._future.result()
        return False

    def wait(self) -> None:
        """Wait for the thread, if it has begun."""
        if self._future is not None:
            self._future.result()

    def _make(self) -> None:
        import_export()
        with at_rest():
            self._journal.add("plan", **planned(self._config))
        gc.freeze()


@functools.cache
def import_export() -> None:
    """Import what a run needs at its end: seconds of one core, which is idle while captions are encoded."""
    with at_rest():
        import ray_distill.export.student  # noqa: F401
