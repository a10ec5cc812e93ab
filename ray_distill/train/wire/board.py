"""Board: the actor between workers and driver; it takes rows up and the request to stop down."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_distill.train.wire.heartbeat import Place, failed, stuck

Row = Mapping[str, float]


class Board:
    """Actor that the driver watches, since Ray polls its own reports every 2 s, and they do not show the end of a
    run."""

    def __init__(self, hang_timeout_s: float, rollbacks: int = 0) -> None:
        """``rollbacks`` is the number of earlier rollbacks, from the run's checkpoint."""
        self._hang_timeout_s, self._rollbacks = hang_timeout_s, rollbacks
        self._rows: list[Row] = []
        self._pulled: list[Row] = []
        self._notes: list[str] = []
        self._stopping = False
        self._resume: str | None = None
        self._rollbacks_before = rollbacks
        self._again: int | None = None
        self._memory = 0
        self._new_group()

    def _new_group(self) -> None:
        self._places: dict[int, Place] = {}
        self._lines: dict[int, str] = {}
        self._failures: dict[int, tuple[Place, str]] = {}
        self._moved, self._hang = time.monotonic(), ""
        self._unsaved = ""

    def push(self, rows: list[Row]) -> bool:
        """Take rank 0's rows, and tell it whether to stop."""
        self._rows += rows
        return self._stopping

    def note(self, text: str) -> None:
        self._notes.append(text)

    def pull(self, written: bool = True) -> tuple[list[Row], list[str], int | None]:
        """Rows and notes since the last call, and the step from which a rollback has made all earlier rows untrue.

        ``written`` tells that the rows of earlier calls are in the run's folder.
        """
        self._pulled = ([] if written else self._pulled) + self._rows
        taken = self._rows, self._notes, self._again
        self._rows, self._notes, self._again = [], [], None
        return taken

    def unwritten(self, step: int) -> list[Row]:
        """Rows of steps before ``step`` that may not be in the run's folder: they would be lost with the driver."""
        rows = {row["step"]: row for row in (*self._pulled, *self._rows) if row["step"] < step}
        return [*rows.values()]

    def beat(self, rank: int, place: Place, line: str) -> bool:
        """Take a rank's place, and tell it whether its group is given up."""
        self._lines[rank] = line
        if self._places.get(rank) != place:
            self._places[rank], self._moved = place, time.monotonic()
        still = time.monotonic() - self._moved
        if not self._hang and still > self._hang_timeout_s:
            self._hang = stuck(self._places, self._lines, still)
            self._notes.append(self._hang)
        return bool(self._hang)

    def fail(self, rank: int, place: Place, text: str) -> None:
        """Note that a rank ended with an exception, whose traceback is ``text``."""
        self._failures[rank] = place, text
        if len(self._failures) == 1:
            self._notes.append(failed(self._failures).partition("\n")[0])

    def cause(self) -> str:
        """Cause of the newest group's end, as far as its ranks reported it; "" if none did."""
        return self._hang or (failed(self._failures) if self._failures else "")

    def resume_from(self, folder: str | None, step: int = 0) -> None:
        """Note the checkpoint, and its step, from which the next worker group resumes. After a rollback it trains
        otherwise than the group before it, whose rows from there on are dropped."""
        self._resume = folder
        if self._rollbacks > self._rollbacks_before:
            self._rows, self._pulled = (
                [row for row in rows if row["step"] < step] for rows in (self._rows, self._pulled)
            )
            self._again = step if self._again is None else min(step, self._again)
        self._rollbacks_before = self._rollbacks
        self._new_group()

    def resumed_from(self) -> str | None:
        return self._resume

    def roll_back(self, why: str) -> None:
        """Count a rollback; the next worker group trains at lower learning rates."""
        self._rollbacks += 1
        self._notes.append(f"rollback {self._rollbacks}: {why}")

    def rollbacks(self) -> int:
        return self._rollbacks

    def save_failed(self, why: str, stop: bool) -> None:
        self._unsaved = why
        self._notes.append(f"{why}. {'The run stops' if stop else 'The run goes on'} (train.on_failed_save)")
        self._stopping = self._stopping or stop

    def unsaved(self) -> str:
        """Cause of the last failed save; "" if none failed."""
        return self._unsaved

    def report_memory(self, memory: int) -> None:
        """Keep the largest peak of bytes; each worker calls this with its own peak at its end."""
        self._memory = max(self._memory, memory)

    def memory(self) -> int:
        """Largest peak of bytes of the workers that ended in good order; else 0."""
        return self._memory

    def request_stop(self) -> None:
        self._stopping = True


def start_board(hang_timeout_s: float, rollbacks: int = 0) -> Any:
    # On the driver's node: it must not die with a worker's node, and is useless without the driver.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote(hang_timeout_s, rollbacks)
