"""Cycles of a run, trained aside to measure their seconds and bytes beside the plan's; they leave nothing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ray_distill.checkpoint.layout import TENSORS, role_of
from ray_distill.config import RunConfig
from ray_distill.data.store.cache import Cache
from ray_distill.evaluate.names import METRICS
from ray_distill.jsonl import read_rows
from ray_distill.plan.estimate import Estimate
from ray_distill.plan.hardware import GIB
from ray_distill.track.tracker import Tracker
from ray_distill.train.driver.console import say
from ray_distill.train.driver.fit import train
from ray_distill.train.driver.signals import Signals

FOLDER, PREFIX, BYTES = "cycles", "seconds/", "bytes/"
MOST = 1000
"""Steps that are trained at most, however long a cycle is."""


@dataclass(frozen=True)
class RoleCycles:
    """Mean seconds of a role's updates in a step that updates it, the share of such steps, bytes of its part of a
    checkpoint, and the most bytes of a worker in its updates (0 where they are unknown). The first of several such
    steps, which is slow, does not count for the seconds."""

    seconds: float
    share: float
    checkpoint: int
    peak: int = 0


@dataclass(frozen=True)
class Cycles:
    """Number of ``steps``, mean seconds of a step (None where they came too fast to be told apart), peak bytes of a
    worker, bytes of a checkpoint, and by role the seconds of its updates and its bytes of the checkpoint."""

    steps: int
    seconds: float | None
    memory: int
    checkpoint: int
    roles: Mapping[str, RoleCycles] = field(default_factory=dict)


class Clock:
    """Mean seconds of a step, by the times at which rows of the file ``path`` came. The first rows start the clock, so
    that loading and the first step's compilation do not count."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._first: tuple[float, int] | None = None
        self._last: tuple[float, int] | None = None

    def look(self, now: float | None = None) -> None:
        """Count the rows, at ``now`` or at this moment."""
        rows = len(read_rows(self.path, "step", mend=False))
        if rows and (self._last is None or rows > self._last[1]):
            self._last = (time.monotonic() if now is None else now), rows
            self._first = self._first or self._last

    @property
    def seconds(self) -> float | None:
        """The mean; None before rows came at two times."""
        if self._first is None or self._last is None or self._last[1] == self._first[1]:
            return None
        return (self._last[0] - self._first[0]) / (self._last[1] - self._first[1])


def aside(config: RunConfig) -> RunConfig:
    """The configuration of the run's first cycles, in a folder of its own, without evaluation, tracking and outlets."""
    steps = min(config.evaluate.preflight.cycles * config.method.period[1], config.train.steps, MOST)
    evaluate = config.evaluate.model_copy(update={"enabled": False, "every": None, "baseline": False})
    own = {"steps": steps, "checkpoint_every": steps, "log_every_s": 0.1, "resume_from": "none", "role_seconds": True}
    return config.model_copy(
        update={
            "name": FOLDER,
            "output_dir": config.run_dir / "preflight",
            "train": config.train.model_copy(update=own),
            "evaluate": evaluate,
            "track": config.track.model_copy(update={"uri": "", "webhook": None}),
            "publish": None,
        }
    )


def measure_cycles(config: RunConfig, cache: Cache, signals: Signals) -> Cycles:
    """Train the run's first ``evaluate.preflight.cycles`` cycles on the Ray that has been started."""
    own = aside(config)
    shutil.rmtree(own.run_dir, ignore_errors=True)
    own.run_dir.mkdir(parents=True)
    clock = Clock(own.run_dir / METRICS)
    say(f"   {own.train.steps} steps are trained aside, and removed")
    try:
        last, memory = train(own, cache, Tracker(None), signals, clock.look)
        clock.look()
        sizes = {path.name: path.stat().st_size for path in last.folder.iterdir()}
        rows = [
            row for _, row in sorted({row["step"]: row for row in read_rows(clock.path, "step", mend=False)}.items())
        ]
        return Cycles(own.train.steps, clock.seconds, memory, sum(sizes.values()), by_role(rows, sizes))
    finally:
        shutil.rmtree(own.run_dir, ignore_errors=True)


def by_role(rows: Sequence[Mapping[str, Any]], sizes: Mapping[str, int]) -> dict[str, RoleCycles]:
    """Measurements by role, from the ``rows`` of steps and the ``sizes`` of a checkpoint's files."""
    roles = {}
    for name in sorted({name for row in rows for name in row if name.startswith(PREFIX)}):
        role, seconds = name.removeprefix(PREFIX), [float(row[name]) for row in rows if name in row]
        steady = seconds[1:] or seconds
        stored = sum(size for file, size in sizes.items() if file.endswith(TENSORS) and role_of(file) == role)
        peak = max((int(row[BYTES + role]) for row in rows if BYTES + role in row), default=0)
        roles[role] = RoleCycles(sum(steady) / len(steady), len(seconds) / len(rows), stored, peak)
    return roles


def compared(planned: Estimate | None, measured: Cycles, gpu: bool) -> tuple[list[str], dict[str, Any]]:
    """(lines, numbers) of the measurement beside the plan."""
    seconds = "too fast to be measured" if measured.seconds is None else f"{measured.seconds:.3g} s a step"
    lines = [f"{measured.steps} steps of training: {seconds}, {measured.memory / GIB:.2f} GiB a worker"]
    numbers = asdict(measured)
    if planned is not None:
        flops = sum(planned.flops.values())
        numbers["flops"] = flops
        rate = f", so {flops / measured.seconds / 1e12:.3g} TFLOP/s" if measured.seconds else ""
        libraries = "" if gpu else "; on a CPU the measured memory includes libraries, which no plan counts"
        lines.append(f"as planned: {flops / 1e12:.3g} TFLOP of a worker in a step{rate}{libraries}")
        lines.append(f"a checkpoint: {measured.checkpoint / 1e9:.3g} GB, planned {planned.checkpoint / 1e9:.3g} GB")
    lines += [_of_role(role, each, planned) for role, each in measured.roles.items()]
    return lines, numbers


def _of_role(role: str, measured: RoleCycles, planned: Estimate | None) -> str:
    """A line on one role's updates, its bytes of a checkpoint and its peak."""
    line = f"{role}: {measured.seconds:.3g} s an update, in {measured.share:.0%} of the steps"
    stored = f"{measured.checkpoint / 1e9:.3g} GB of a checkpoint"
    peak = f"; peak {measured.peak / GIB:.2f} GiB of a worker" if measured.peak else ""
    if planned is None or role not in planned.update_flops:
        return f"{line}; {stored}{peak}"
    flops = planned.update_flops[role] / measured.share
    rate = f", so {flops / measured.seconds / 1e12:.3g} TFLOP/s" if measured.seconds else ""
    size = planned.checkpoints.get(role, 0) / 1e9
    if peak and role in planned.update_peaks:
        peak += f", planned {planned.update_peaks[role] / GIB:.2f} GiB"
    return f"{line}, planned {flops / 1e12:.3g} TFLOP{rate}; {stored}, planned {size:.3g} GB{peak}"
