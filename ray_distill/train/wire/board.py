"""Board: the actor between workers and driver; rows go up, the wish to stop goes down."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_distill.train.wire.heartbeat import Place, failed, stuck

Row = Mapping[str, float]


class Board:
    """A tiny actor. Ray's own report is polled every 2 s and has no end of run; this is what the driver watches."""

    def __init__(self, hang_timeout_s: float, rollbacks: int = 0) -> None:
        """``rollbacks``: how often the run has gone back before, as its checkpoint says."""
        self._hang_timeout_s, self._rollbacks = hang_timeout_s, rollbacks
        self._rows: list[Row] = []
        self._notes: list[str] = []
        self._stopping = False
        self._resume: str | None = None
        self._memory = 0
        self._new_group()

    def _new_group(self) -> None:
        self._places: dict[int, Place] = {}
        self._lines: dict[int, str] = {}
        self._failures: dict[int, tuple[Place, str]] = {}
        self._moved, self._hang = time.monotonic(), ""
        self._unsaved = ""

    def push(self, rows: list[Row]) -> bool:
        """Rank 0 leaves its rows and learns whether to stop."""
        self._rows += rows
        return self._stopping

    def note(self, text: str) -> None:
        self._notes.append(text)

    def pull(self) -> tuple[list[Row], list[str]]:
        """Rows and notes since the last call."""
        taken = self._rows, self._notes
        self._rows, self._notes = [], []
        return taken

    def beat(self, rank: int, place: Place, line: str) -> bool:
        """A rank says where it is, and learns whether its group is given up."""
        self._lines[rank] = line
        if self._places.get(rank) != place:
            self._places[rank], self._moved = place, time.monotonic()
        still = time.monotonic() - self._moved
        if not self._hang and still > self._hang_timeout_s:
            self._hang = stuck(self._places, self._lines, still)
            self._notes.append(self._hang)
        return bool(self._hang)

    def fail(self, rank: int, place: Place, text: str) -> None:
        """A rank ends with an exception, whose traceback is ``text``."""
        self._failures[rank] = place, text
        if len(self._failures) == 1:
            self._notes.append(failed(self._failures).partition("\n")[0])

    def cause(self) -> str:
        """The cause of the newest group's end, as far as its ranks could say; "" where none could."""
        return self._hang or (failed(self._failures) if self._failures else "")

    def resume_from(self, folder: str | None) -> None:
        """The checkpoint that the worker group that starts now resumes from."""
        self._resume = folder
        self._new_group()

    def resumed_from(self) -> str | None:
        return self._resume

    def roll_back(self, why: str) -> None:
        """The worker group that starts next does so at lower learning rates."""
        self._rollbacks += 1
        self._notes.append(f"rollback {self._rollbacks}: {why}")

    def rollbacks(self) -> int:
        return self._rollbacks

    def save_failed(self, why: str, stop: bool) -> None:
        self._unsaved = why
        self._notes.append(f"{why}. {'The run stops' if stop else 'The run goes on'} (train.on_failed_save)")
        self._stopping = self._stopping or stop

    def unsaved(self) -> str:
        """The cause of the last save that failed; "" where none did."""
        return self._unsaved

    def report_memory(self, memory: int) -> None:
        """Keep the most bytes that any worker has held; a worker calls this with its own at its end."""
        self._memory = max(self._memory, memory)

    def memory(self) -> int:
        """The most bytes that a worker held, as far as they ended in good order; else 0."""
        return self._memory

    def request_stop(self) -> None:
        self._stopping = True


def start_board(hang_timeout_s: float, rollbacks: int = 0) -> Any:
    # Beside the driver: what outlives it is of no use, and it must not go down with a worker's node.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote(hang_timeout_s, rollbacks)
