"""Measure the seconds of each role's updates within a step, for train.role_seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

PREFIX = "seconds/"


class Laps:
    """Seconds of a step by the role that is updated: the time between the marks of :func:`train_step`, which ``at``
    takes, too. A GPU finishes its work at each mark, so that its seconds belong to the role that asked for it."""

    def __init__(
        self, at: Callable[..., Any], device: torch.device, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._at, self._device, self._clock = at, device, clock
        self._seconds: dict[str, float] = {}
        self._role, self._since = "", 0.0

    def __call__(self, phase: str, role: str = "", **place: Any) -> None:
        self._close()
        self._role, self._since = role, self._clock()
        self._at(phase, role, **place)

    def take(self) -> dict[str, Tensor]:
        """The values of the step to log, ``seconds/<role>``; the next step begins at 0."""
        self._close()
        seconds, self._seconds, self._role = self._seconds, {}, ""
        return {f"{PREFIX}{role}": torch.tensor([value]) for role, value in seconds.items()}

    def _close(self) -> None:
        if not self._role:
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._seconds[self._role] = self._seconds.get(self._role, 0.0) + self._clock() - self._since
