"""Health of a running training: each warning of its rows once on the terminal, and all of them in MLflow."""

from __future__ import annotations

from collections.abc import Sequence

from ray_distill.methods.watch import warnings
from ray_distill.track.tracker import Tracker
from ray_distill.train.driver.console import say
from ray_distill.train.driver.progress import Row

TAG = "health"


class Health:
    """Watches the rows of a run, those of before a restart included. Warnings are lines of the tag ``health``."""

    def __init__(self, rows: Sequence[Row], bf16: bool, tracker: Tracker) -> None:
        self._rows, self._bf16, self._tracker = list(rows), bf16, tracker
        self._texts: list[str] = []

    def take(self, fresh: Sequence[Row]) -> None:
        """Say the warnings that ``fresh`` rows give for the first time."""
        self._rows.extend(fresh)
        new = [text for text in warnings(self._rows, self._bf16) if text not in self._texts] if fresh else []
        for text in new:
            say(f"   warning: {text}")
        if new:
            self._texts += new
            self._tracker.tags({TAG: "\n".join(self._texts)})
