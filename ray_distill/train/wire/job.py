"""Job: the values that the driver hands to Ray Train. Light to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.train

from ray_distill import checkpoint
from ray_distill.checkpoint.retention import is_good, set_aside
from ray_distill.data.feed.stream import Stream
from ray_distill.train.wire.resume_point import ROLLBACKS, kept_rows, resumed_from

if TYPE_CHECKING:
    from ray.data import DataIterator

    from ray_distill.config import RunConfig


@dataclass(frozen=True)
class Job:
    """One training, for each worker. ``settings`` is RunConfig.dump(secrets=True), since a masked path would be wrong.
    They stay out of ``repr``, which Ray Train keeps for its dashboard."""

    settings: Mapping[str, Any] = field(repr=False)
    run_dir: Path
    stream: Stream
    board: Any
    run_id: str | None

    @cached_property
    def config(self) -> RunConfig:
        from ray_distill.config import RunConfig

        return RunConfig.model_validate(self.settings)

    def data(self) -> Stream:
        """The stream from the run's current step, for Split; Ray Train calls this whenever it starts a worker group.

        It chooses the checkpoint to resume from, once; the workers read it from the board.
        """
        count = ray.get(self.board.rollbacks.remote(), timeout=60)
        # A rollback because of skipped updates gains nothing from a checkpoint amid skipped updates.
        last = resumed_from(
            self.run_dir,
            self.settings["train"]["resume_from"],
            thorough=True,
            accepts=lambda saved: is_good(saved) or saved.state.get(ROLLBACKS, 0) >= count,
            tell=lambda text: ray.get(self.board.note.remote(text), timeout=60),
        )
        set_aside(self.run_dir, last)
        folder, step = (str(last.folder), last.step) if last else (None, 0)
        ray.get(self.board.resume_from.remote(folder, step), timeout=60)
        if last is not None:
            ray.get(self.board.push.remote(kept_rows(last, self.run_dir)), timeout=60)
        return replace(self.stream, start=step)

    def resume_point(self) -> checkpoint.Checkpoint | None:
        folder = ray.get(self.board.resumed_from.remote(), timeout=60)
        return checkpoint.Checkpoint(Path(folder)) if folder else None


class Split(ray.train.DataConfig):
    """Split a job's stream among the started workers; only here does Ray give their number."""

    def configure(
        self, datasets: dict[str, Any], world_size: int, *others: Any, **more: Any
    ) -> list[dict[str, DataIterator]]:
        parts = {name: replace(stream, world=world_size).dataset() for name, stream in datasets.items()}
        return super().configure(parts, world_size, *others, **more)
