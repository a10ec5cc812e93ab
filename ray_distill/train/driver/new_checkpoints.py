"""Announce each new whole checkpoint once, to web hook and hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ray_distill.checkpoint import is_whole
from ray_distill.checkpoint.layout import folders, step_of


class Arrivals:
    """Call ``take`` once for each checkpoint that appears in ``run_dir`` from now on, with its folder and step."""

    def __init__(self, run_dir: Path, take: Callable[[Path, int], None]) -> None:
        self.run_dir, self.take = run_dir, take
        self._seen = {folder.name for folder in folders(run_dir) if is_whole(folder)}

    def rewind(self, step: int) -> None:
        """Announce checkpoints after ``step`` again, once they are saved anew."""
        self._seen = {name for name in self._seen if (step_of(Path(name)) or 0) <= step}

    def poll(self) -> None:
        for folder in folders(self.run_dir):
            step = step_of(folder)
            if step is not None and folder.name not in self._seen and is_whole(folder):
                self._seen.add(folder.name)
                self.take(folder, step)
