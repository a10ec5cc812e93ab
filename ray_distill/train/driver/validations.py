"""Sample checkpoints during training, and record the student's quality by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray

from ray_distill.checkpoint import is_whole
from ray_distill.checkpoint.layout import folder_name, folders
from ray_distill.checkpoint.retention import best_steps
from ray_distill.config import RunConfig
from ray_distill.data.store.cache import Cache
from ray_distill.evaluate.compare import ratios, summary, teachers
from ray_distill.evaluate.distances import distances
from ray_distill.evaluate.generate import Generator
from ray_distill.evaluate.latents import NotFinite
from ray_distill.evaluate.names import BESIDE, VALIDATION_VIDEOS, VALIDATIONS
from ray_distill.evaluate.samples import Candidate, Samples
from ray_distill.evaluate.videos import beside, write_videos
from ray_distill.jsonl import Series, read_rows
from ray_distill.track.tracker import Tracker
from ray_distill.track.webhook import WebHook
from ray_distill.train.driver.console import say
from ray_distill.types import STUDENT

Row = Mapping[str, Any]
SCORE = "frechet"
SHOWN = ("frechet", "accuracy", "motion_ratio", "saturation_ratio")
TASK_CPUS = 0.1
"""Resources of a validation, which must find room beside the training's workers."""


class Validations:
    """Validations every ``evaluate.every`` steps, one at a time, each on a checkpoint with ``evaluate.tune_seed``.

    ``rows`` hold step, frechet, accuracy, ratios to the many-step teacher and more. The run's folder keeps them too, so
    a resumed run does not measure again, and passes its rows to ``report`` once more. No loss measures quality.
    """

    def __init__(
        self,
        config: RunConfig,
        cache: Cache,
        tracker: Tracker,
        report: Callable[[Row], None] | None = None,
        hook: WebHook | None = None,
    ) -> None:
        self.config, self.cache, self.tracker, self.report = config, cache, tracker, report
        self.hook = hook or WebHook(None, config.name)
        every = config.evaluate.every
        self.rows, self._series = read(config.run_dir), Series(config.run_dir / VALIDATIONS)
        past = {row["step"] for row in self.rows}
        due = [*range(every, config.train.steps, every), config.train.steps] if every else []
        self._due = [step for step in due if step not in past]
        self._generator: Generator | None = None
        self._running: tuple[int, list[Any]] | None = None
        self._teacher: Samples | None = None
        for row in self.rows:
            self._tell(row)

    def poll(self, wait: bool = False) -> None:
        """Take finished validations and start due ones; wait for them only if asked."""
        if self._running is not None:
            step, tasks = self._running
            if not wait and not all(ray.wait([task], timeout=0)[0] for task in tasks):
                return
            self._running = None
            try:
                self._take(step, [ray.get(task, timeout=self.config.train.timeout_s) for task in tasks])
            except FileNotFoundError:  # Ray raises a task's error as its own class
                self._gone(step)
            except NotFinite as error:
                if self.report is not None:  # the trial has nothing to report: it fails, and the sweep continues
                    raise
                say(f"   step {step} is not validated: {getattr(error, 'cause', error)}")  # Ray's text has a traceback
            except OSError as error:  # a disk that takes no videos must not end the run
                say(f"   step {step} is not validated: {error}")
        due = self._next()
        if due is not None:
            self._start(due)

    def rewind(self, step: int) -> None:
        """Forget the validations of checkpoints after ``step``, from which the run goes on otherwise than before; they
        are due again."""
        again = {row["step"] for row in self.rows if row["step"] > step}
        if self._running is not None and self._running[0] > step:
            again.add(self._running[0])
            self._running = None
        self.rows = [row for row in self.rows if row["step"] <= step]
        self._due = sorted({*self._due, *again})
        self._series.cut(step + 1)

    @property
    def kept(self) -> set[int]:
        """Steps whose checkpoints must stay: the best so far, and the one in sampling."""
        scores = {row["step"]: row[SCORE] for row in self.rows if math.isfinite(row.get(SCORE, math.nan))}
        running = {self._running[0]} if self._running else set()
        return best_steps(scores, self.config.train.checkpoints_keep_best) | running

    def finish(self) -> None:
        """Measure due checkpoints after training has ended."""
        self.poll(wait=True)
        while self._running is not None:
            self.poll(wait=True)

    def _next(self) -> int | None:
        """The next due step whose checkpoint is whole."""
        newest = max(folders(self.config.run_dir), default=None)
        while self._due and newest is not None and folder_name(self._due[0]) <= newest.name:
            folder = self.config.run_dir / folder_name(self._due[0])
            if folder.is_dir():
                return self._due.pop(0) if is_whole(folder) else None
            self._gone(self._due.pop(0))
        return None

    def _gone(self, step: int) -> None:
        say(f"   step {step} is not validated: its checkpoint was already deleted; raise train.checkpoints_keep")

    def _start(self, step: int) -> None:
        if self._generator is None:
            self._generator = Generator(self.config, self.cache)
        folder, sampler = self.config.run_dir / folder_name(step), self.config.method.sampler()
        candidates = [Candidate(STUDENT, sampler, folder, averaged) for averaged in self.config.validation_students]
        many = teachers(self.config).get("teacher_many")
        if many is not None and self._teacher is None and self.config.evaluate.validation_ratios:
            candidates.append(many)
        seed = self.config.evaluate.tune_seed
        self._running = step, [self._generator.start(candidate, seed, TASK_CPUS) for candidate in candidates]

    def _take(self, step: int, samples: list[Any]) -> None:
        """Take one row; ``trained`` marks values of the trained weights, if the average is validated too."""
        assert self._generator is not None
        folder = self.config.run_dir / VALIDATION_VIDEOS / f"step_{step:06d}"
        row: dict[str, Any] = {"step": step}
        students = samples[: len(self.config.validation_students)]
        self._teacher = next(iter(samples[len(students) :]), self._teacher)
        for each, prefix, place in zip(students, ("", "trained_"), (folder, folder / "trained"), strict=False):
            measured = summary([each], self._generator.real, self.config.method.sampler(), self._generator.prompts)
            if self._teacher is not None:
                compared = ratios([each], [self._teacher], self._generator.prompts)
                compared |= distances([each], [self._teacher], self._generator.prompts)
                measured |= {name: ratio["value"] for name, ratio in compared.items()}
            row |= {f"{prefix}{name}": value for name, value in measured.items() if value is not None}
            write_videos(place, each, self._generator.prompts, self.config.data.fps)
        if self._teacher is not None:
            pairs = beside(self._teacher, students[0])
            write_videos(folder / BESIDE, pairs, self._generator.prompts, self.config.data.fps)
        self._series.add([row])
        self.rows.append(row)
        shown = "  ".join(f"{name} {row[name]:.3f}" for name in SHOWN if name in row)
        say(f"   validation at step {step}: {shown or folder}")
        self.tracker.metrics(step, {f"validation/{name}": value for name, value in row.items() if name != "step"})
        self.tracker.videos(folder, step)
        self.hook.send("validation", f"step {step} is validated", videos=str(folder.absolute()), **row)
        self._tell(row)

    def _tell(self, row: Row) -> None:
        if self.report is not None:
            self.report(row)


def read(run_dir: Path) -> list[Row]:
    """Read the validations of a run so far."""
    return [*read_rows(run_dir / VALIDATIONS, "step")]
