"""Show progress, ETA and losses: a bar on a terminal, otherwise a line from time to time."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TextIO

from ray_distill.bars import bar

Row = Mapping[str, float]


class Progress:
    """Show rows as they come, and drop equal rows that a restarted worker sends again."""

    def __init__(self, steps: int, last_step: int = -1, out: TextIO | None = None, every_s: float = 10.0) -> None:
        self.steps, self.last_step, self.out, self.every_s = steps, last_step, out or sys.stderr, every_s
        self._bar = bar("step", steps, last_step + 1, self.out)
        self._began: tuple[float, int] | None = None
        self._printed = 0.0
        self._means: dict[str, float] = {}

    def new(self, rows: list[Row]) -> list[Row]:
        """Rows past the watermark; shows the run's progress."""
        fresh = []
        # After a while one look may bring the same steps twice: from workers that died, and from their successors.
        for row in rows:
            if row["step"] > self.last_step:
                fresh.append(row)
                self.last_step = int(row["step"])
        if fresh:
            for row in fresh:
                for name, value in row.items():
                    self._means[name] = 0.9 * self._means.get(name, value) + 0.1 * value
            self._show()
        self._bar.refresh()  # its clock goes on while workers start
        return fresh

    def rewind(self, step: int) -> None:
        """Take rows from ``step`` on anew: after a rollback they are not those of before."""
        self.last_step, self._means, self._began = min(self.last_step, step - 1), {}, None
        self._bar.n = self.last_step + 1

    def close(self) -> None:
        """Close the bar; later lines appear below it."""
        self._bar.close()

    def _show(self) -> None:
        done = self.last_step + 1
        losses = "  ".join(
            f"{name} {value:.4f}" for name, value in sorted(self._means.items()) if name.endswith("_loss")
        )
        if self._bar.disable:
            self._print(done, losses)
            return
        self._bar.set_postfix_str(losses, refresh=False)
        self._bar.update(done - self._bar.n)

    def _print(self, done: int, losses: str) -> None:
        """Print a line, unless the last one is younger than ``every_s`` seconds; the last step always has a line."""
        now = time.monotonic()
        if self._began is None:
            self._began = now, done
        if now - self._printed < self.every_s and done < self.steps:
            return
        self._printed = now
        seconds, steps = now - self._began[0], done - self._began[1]
        pace = (
            f"{steps / seconds:5.2f} steps/s  ETA {clock((self.steps - done) * seconds / steps)}"
            if steps and seconds
            else ""
        )
        self.out.write(
            f"step {done:>{len(str(self.steps))}}/{self.steps}  {100 * done // self.steps:3d} %  {pace}  {losses}\n"
        )
        self.out.flush()


def clock(seconds: float) -> str:
    """75 -> '1:15', 3700 -> '1:01:40'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
