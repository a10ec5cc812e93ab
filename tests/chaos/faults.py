"""Faults from a plan, put into the workers of a run from outside: nothing of ray_distill knows of them.

A fault strikes once, at the first mark of its phase at or after its step on its rank, in a worker that was started
after the fault before it: there the worker leaves a note in the folder, and does to itself what the fault says, or goes
on where the fault is someone else's to make (a driver's, a node's).
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray

from ray_distill.train.wire.heartbeat import Pulse
from ray_distill.train.worker import entry

PLAN, STEPS, RAW, SAMPLES = "plan.json", "steps.jsonl", "raw.jsonl", "samples.jsonl"
SPACING = 6
"""Steps from one fault to the next: more than what a checkpoint is apart."""
OUTSIDE = ("driver-", "node-")


@dataclass(frozen=True)
class Fault:
    """``kind`` strikes ``rank`` in ``phase`` at ``step`` or after it, ``delay`` seconds into the phase."""

    number: int
    kind: str
    phase: str
    step: int
    rank: int
    delay: float

    @property
    def note(self) -> str:
        return note_name(self.number)


def note_name(number: int) -> str:
    return f"fault-{number:02d}.json"


def plan(kinds: list[tuple[str, str]], seed: int) -> list[Fault]:
    """(kind, phase) pairs in random order, each at a random moment within its own SPACING steps."""
    rng = random.Random(seed)
    return [
        Fault(number, kind, phase, number * SPACING + rng.randrange(1, SPACING), rng.randrange(2), rng.uniform(0, 0.02))
        for number, (kind, phase) in enumerate(rng.sample(kinds, len(kinds)))
    ]


def read_plan(folder: Path) -> list[Fault]:
    return [Fault(**fault) for fault in json.loads((folder / PLAN).read_text())]


def write_plan(folder: Path, faults: list[Fault]) -> None:
    (folder / PLAN).write_text(json.dumps([asdict(fault) for fault in faults]))


def folder_of(run_dir: Path) -> Path:
    return run_dir.parent / f"{run_dir.name}.chaos"


def train_worker(settings: Mapping[str, Any]) -> None:
    """In the place of ray_distill's own, which it calls: the marks of this worker's pulse strike, and what each step
    trains on is written down."""
    from ray_distill.train.worker import loop as worker

    folder = folder_of(settings["job"].run_dir)
    faults, plain, plain_step, born = read_plan(folder), Pulse.at, worker.train_step, time.time()

    def train_step(method: Any, engines: Any, batches: Any, step: int, *given: Any) -> Any:
        samples = [int(sample) for batch in batches for sample in batch.sample_ids]
        _append(folder / SAMPLES, {"step": step, "rank": worker.dist.get_rank(), "samples": samples})
        return plain_step(method, engines, batches, step, *given)

    def at(self: Pulse, phase: str, *given: Any, **more: Any) -> None:
        plain(self, phase, *given, **more)
        if phase == "data" and self.rank == 0:
            _append(folder / STEPS, {"time": time.time(), "step": self.place.step, "pid": os.getpid()})
        for fault in _due(faults, self, phase):
            if _claim(folder, fault, self, born):
                strike(fault)

    Pulse.at, worker.train_step = at, train_step  # type: ignore[method-assign]
    entry.train_worker(settings)


def _due(faults: list[Fault], pulse: Pulse, phase: str) -> Iterator[Fault]:
    step = pulse.place.step
    for fault in faults:
        early = step is None or step < fault.step
        if (fault.rank, fault.phase) == (pulse.rank, phase) and not (early and phase != "load"):
            yield fault


def _claim(folder: Path, fault: Fault, pulse: Pulse, born: float) -> bool:
    """True where this fault is still to come, and the fault before it is over for this process."""
    if any(not (path := folder / note_name(n)).exists() or path.stat().st_mtime > born for n in range(fault.number)):
        return False
    note = {"time": time.time(), "step": pulse.place.step, "pid": os.getpid(), "rank": pulse.rank}
    note["node"] = ray.get_runtime_context().get_node_id()
    try:
        with (folder / fault.note).open("x") as file:
            file.write(json.dumps(note))
    except FileExistsError:
        return False
    return True


def strike(fault: Fault) -> None:
    """Let a worker do to itself what the fault says."""
    if fault.kind == "kill":
        threading.Timer(fault.delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
    elif fault.kind == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault.kind == "hang":
        time.sleep(3600)
    elif fault.kind == "raise":
        raise RuntimeError("planted by chaos")
    elif fault.kind.startswith(("node-notice", "node-comes")):
        # Slow enough that the run does not end before the node does, or before it takes the node that comes.
        plain = Pulse.at
        Pulse.at = lambda *given, **more: (plain(*given, **more), time.sleep(0.25))  # type: ignore[method-assign]
    else:
        assert fault.kind.startswith(OUTSIDE), fault.kind


def _append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
