"""Show progress, ETA and losses: a live line on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TextIO

Row = Mapping[str, float]


class Progress:
    """Shows rows as they come; rows that a restarted worker sends again are dropped, since they are equal."""

    def __init__(self, steps: int, last_step: int = -1, out: TextIO = sys.stderr, every_s: float = 10.0) -> None:
        self.steps, self.last_step, self.out, self.every_s = steps, last_step, out, every_s
        self._began: tuple[float, int] | None = None
        self._printed = 0.0
        self._means: dict[str, float] = {}

    def new(self, rows: list[Row]) -> list[Row]:
        """The rows past the watermark; shows where the run stands."""
        fresh = [row for row in rows if row["step"] > self.last_step]
        if fresh:
            self.last_step = int(fresh[-1]["step"])
            for row in fresh:
                for name, value in row.items():
                    self._means[name] = 0.9 * self._means.get(name, value) + 0.1 * value
            self._show()
        return fresh

    def _show(self) -> None:
        now, done = time.monotonic(), self.last_step + 1
        if self._began is None:
            self._began = now, done
        live = self.out.isatty()
        if not live and now - self._printed < self.every_s and done < self.steps:
            return
        self._printed = now
        seconds, steps = now - self._began[0], done - self._began[1]
        pace = (
            f"{steps / seconds:5.2f} steps/s  ETA {clock((self.steps - done) * seconds / steps)}"
            if steps and seconds
            else ""
        )
        losses = "  ".join(
            f"{name} {value:.4f}" for name, value in sorted(self._means.items()) if name.endswith("_loss")
        )
        line = f"step {done:>{len(str(self.steps))}}/{self.steps}  {100 * done // self.steps:3d} %  {pace}  {losses}"
        self.out.write(f"\r\x1b[K{line}" if live else f"{line}\n")
        if live and done == self.steps:
            self.out.write("\n")
        self.out.flush()


def clock(seconds: float) -> str:
    """75 -> '1:15', 3700 -> '1:01:40'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
