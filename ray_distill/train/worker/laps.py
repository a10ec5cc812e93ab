"""Measure the seconds and the peak bytes of each role's updates within a step, for train.role_seconds."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PREFIX, BYTES = "seconds/", "bytes/"
PAGE = resource.getpagesize()


class Laps:
    """Seconds and peak bytes of a step by the role that is updated, between the marks of :func:`train_step`, which
    ``at`` takes, too. A GPU finishes its work at each mark, so that its seconds belong to the role that asked for it.

    Bytes are torch's peak on a GPU. On a CPU they are the most resident memory of the process at the ends of phases,
    with libraries; a peak within a phase is not seen. ``most`` is the largest peak of all steps on a GPU.
    """

    def __init__(
        self, at: Callable[..., Any], device: torch.device, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._at, self._device, self._clock = at, device, clock
        self._seconds: dict[str, float] = {}
        self._bytes: dict[str, int] = {}
        self.most = 0
        self._role, self._since = "", 0.0

    def __call__(self, phase: str, role: str = "", **place: Any) -> None:
        self._close()
        if self._device.type == "cuda":
            self.most = max(self.most, torch.cuda.max_memory_allocated(self._device))
            torch.cuda.reset_peak_memory_stats(self._device)
        self._role, self._since = role, self._clock()
        self._at(phase, role, **place)

    def take(self) -> dict[str, Tensor]:
        """The values of the step to log, ``seconds/<role>`` and ``bytes/<role>``; the next step begins at 0."""
        self._close()
        values = {f"{PREFIX}{role}": value for role, value in self._seconds.items()}
        values |= {f"{BYTES}{role}": float(peak) for role, peak in self._bytes.items()}
        self._seconds, self._bytes, self._role = {}, {}, ""
        return {name: torch.tensor([value]) for name, value in values.items()}

    def _close(self) -> None:
        if not self._role:
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._seconds[self._role] = self._seconds.get(self._role, 0.0) + self._clock() - self._since
        self._bytes[self._role] = max(self._bytes.get(self._role, 0), self._peak())

    def _peak(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return resident()


def resident() -> int:
    """Bytes of this process that are in memory; 0 where the system has no /proc."""
    statm = Path("/proc/self/statm")
    return PAGE * int(statm.read_text().split()[1]) if statm.exists() else 0
