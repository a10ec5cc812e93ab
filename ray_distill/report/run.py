"""Run: the files of a run's folder, read once for its page; a run may have ended anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ray_distill import checkpoint
from ray_distill.config.keys import flatten
from ray_distill.errors import ConfigError
from ray_distill.evaluate.names import METRICS, PREFLIGHT, REPORT, VALIDATIONS
from ray_distill.jsonl import read_document, read_rows
from ray_distill.methods.watch import Level, levels, warnings
from ray_distill.report import journal

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A run by its files: the ``journal``, the ``rows`` of its steps, its ``validations`` and its ``report``, each
    empty where the run has not come so far. ``last`` is the newest whole checkpoint."""

    folder: Path
    journal: Sequence[Row]
    rows: Sequence[Mapping[str, float]]
    validations: Sequence[Row]
    report: Row
    last: checkpoint.Checkpoint | None

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read the folder of a run, which stays as it is; ConfigError where no run has left anything there."""
        run = cls.of(folder)
        if not (run.journal or run.rows or run.report or run.last or (folder / PREFLIGHT).is_file()):
            raise ConfigError(f"{folder}: this is no folder of a run; give output_dir/name, such as output/quickstart")
        return run

    @classmethod
    def of(cls, folder: Path) -> Run:
        """Read a folder in which a run may have left nothing, as a trial that failed at once does."""
        return cls(
            folder,
            journal.read(folder),
            read_rows(folder / METRICS, "step", mend=False),
            read_rows(folder / VALIDATIONS, "step", mend=False),
            read_document(folder / REPORT, mend=False),
            checkpoint.latest(folder),
        )

    @property
    def name(self) -> str:
        return str(self.value("name") or self.folder.absolute().name)

    def newest(self, event: str) -> Row:
        """The newest row of the journal with this event; {} where there is none."""
        return next((row for row in reversed(self.journal) if row["event"] == event), {})

    @cached_property
    def config(self) -> list[tuple[str, Any, str]]:
        """(key, value, source) of the configuration; of a run without a journal from its checkpoint, without
        sources."""
        if rows := self.newest("start").get("config"):
            return [(key, value, source) for key, value, source in rows]
        stored = self.last.state.get("config", {}) if self.last else {}
        return [(key, value, "") for key, value in flatten(stored).items()]

    @cached_property
    def values(self) -> dict[str, Any]:
        return {key: value for key, value, _ in self.config}

    def value(self, key: str) -> Any:
        """A key's value; None where the run has no configuration, or no such key."""
        return self.values.get(key)

    @property
    def step(self) -> int:
        """Steps that have been trained, as far as rows, checkpoint or report know."""
        rows = int(self.rows[-1]["step"]) + 1 if self.rows else 0
        return max(rows, self.last.step if self.last else 0, int(self.report.get("steps") or 0))

    @property
    def steps(self) -> int:
        """Steps that the run has to train; those that it has where nobody knows."""
        return int(self.value("train.steps") or self.step)

    @property
    def ending(self) -> str:
        """One sentence on the end of the run."""
        if not (self.step or self.journal):
            return "not trained yet"
        if self.step < self.steps:
            reached = f"ended early, at step {self.step} of {self.steps}"
        else:
            reached = f"trained to its last step, {self.steps}"
        evaluated = "" if "student" in self.report else "; not evaluated"
        events = [row["event"] for row in self.journal if row["event"] in ("start", "end")]
        end = self.newest("end") if events[-1:] == ["end"] else {}
        why = f": {end['error']}" if end.get("error") else ""
        if events[-1:] == ["start"]:
            why = "; it has not ended: it is at work, or was killed"
        return f"{reached}{evaluated}{why}"

    @cached_property
    def warnings(self) -> list[str]:
        """Warnings with their remedies: those of the configuration, and those of the run's own rows."""
        return [*self.newest("start").get("warnings", ()), *warnings(self.rows, self._bf16)]

    @property
    def watched(self) -> list[Level]:
        """The numbers that the warnings judge, beside their thresholds."""
        return levels(self.rows, self._bf16)

    @property
    def _bf16(self) -> bool:
        return bool(self.newest("start").get("bf16"))
