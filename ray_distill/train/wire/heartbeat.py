"""Heartbeat: report each rank's place; name and end a group that does not move."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import ray

BEAT_S = 1.0
HUNG = 86
"""Exit code of a worker whose group does not move."""


@dataclass(frozen=True)
class Place:
    """Place of a rank in the program. Ranks run one program: the others wait for the one with the fewest ``marks``."""

    marks: int = 0
    step: int | None = None
    phase: str = "start"
    role: str = ""

    def __str__(self) -> str:
        where = self.phase + (f" of {self.role}" if self.role else "")
        return where if self.step is None else f"step {self.step}, {where}"


class Pulse:
    """This rank's place, cheap to change; a thread reports it to the board each second.

    As a context it reports the exception that ends it to the board. Phases are the host's: pending work of a GPU shows
    in the next phase that waits for it.
    """

    def __init__(self, board: Any, rank: int) -> None:
        self.board, self.rank, self.place = board, rank, Place()
        self._done, self._thread = threading.Event(), threading.get_ident()

    def at(self, phase: str, role: str = "", step: int | None = None) -> None:
        """Mark that this rank is in ``phase`` of ``step``, by default the step of the previous mark."""
        before = self.place
        self.place = Place(before.marks + 1, before.step if step is None else step, phase, role)

    def __enter__(self) -> Pulse:
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        if error is not None:
            text = "".join(traceback.format_exception(error))
            ray.get(self.board.fail.remote(self.rank, self.place, text), timeout=60)

    def _beat(self) -> None:
        while not self._done.wait(BEAT_S):
            if ray.get(self.board.beat.remote(self.rank, self.place, self._line())):
                faulthandler.dump_traceback(2)  # stacks of all threads, into the worker's log
                os._exit(HUNG)  # nothing can interrupt the other thread inside a collective; Ray restarts the group

    def _line(self) -> str:
        """The Python line that training executes. Within one phase it distinguishes waiting ranks from the one that
        hangs."""
        frame = sys._current_frames().get(self._thread)
        return f"{frame.f_code.co_name}, {Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame else "ended"


def stuck(places: Mapping[int, Place], lines: Mapping[int, str], seconds: float) -> str:
    """The ranks that the others wait for, and the places of all ranks."""
    behind = min(place.marks for place in places.values())
    late = sorted(rank for rank, place in places.items() if place.marks == behind)
    where: dict[str, list[int]] = {}
    for rank in sorted(places, key=lambda rank: (places[rank].marks, rank)):
        where.setdefault(f"{places[rank]} ({lines[rank]})", []).append(rank)
    positions = "; ".join(f"{_ranks(ranks)}: {place}" for place, ranks in where.items())
    whom = "" if len(late) == len(places) else f", waiting for {_ranks(late)}"
    return f"no rank has moved for {seconds:.0f} s{whom} (train.hang_timeout_s). {positions}"


def failed(failures: Mapping[int, tuple[Place, str]]) -> str:
    """Text with the first rank that failed, its traceback, and the later ones; ``failures`` are in order."""
    (first, (place, text)), *others = failures.items()
    after = f"{_ranks([rank for rank, _ in others])} failed after it" if others else ""
    return f"rank {first} failed at {place}: {text.strip().splitlines()[-1]}\n{text}{after}"


def _ranks(ranks: list[int]) -> str:
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
