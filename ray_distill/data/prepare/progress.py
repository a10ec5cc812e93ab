"""Progress of a stage of a preparation, on a terminal or in lines."""

from __future__ import annotations

import time
from collections.abc import Callable

from ray_distill.bars import bar

Say = Callable[[str], None]


class Progress:
    """Progress of a stage: a bar on a terminal, elsewhere a line with counts and the time left every few seconds. The
    lines measure the pace from the first row on, since actors take time to start."""

    def __init__(self, what: str, total: int, say: Say, every_s: float = 5) -> None:
        self.what, self.total, self.say, self.every_s = what, total, say, every_s
        self.bar = bar(f"   {what}", total)
        self.done = self.bad = 0
        self.reported = time.monotonic()
        self.first: tuple[float, int] | None = None

    def add(self, finished: int, bad: int) -> None:
        now = time.monotonic()
        self.done, self.bad = self.done + finished, self.bad + bad
        self.bar.set_postfix_str(f"{self.bad} skipped", refresh=False)
        self.bar.update(finished)
        if not self.bar.disable:
            return
        began, before = self.first = self.first or (now, self.done)
        if now - self.reported >= self.every_s or self.done == self.total:
            self.reported, remaining = now, self.total - self.done
            pace = (self.done - before) / (now - began) if now > began else 0.0
            ahead = f", {pace:.3g}/s, {remaining / pace:.0f} s left" if remaining and pace else ""
            self.say(f"   {self.what}: {self.done} of {self.total}, {self.bad} skipped{ahead}")
