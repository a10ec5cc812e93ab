"""Save checkpoints during training in the background; a failing disk ends only that save."""

from __future__ import annotations

from itertools import chain
from typing import Any

import ray
import torch.distributed as dist

from ray_distill.checkpoint import Checkpoint
from ray_distill.checkpoint.layout import folder_name
from ray_distill.checkpoint.retention import SKIPPING
from ray_distill.checkpoint.writer import AHEAD, SaveFailed, Writing
from ray_distill.train.wire.job import Job
from ray_distill.train.wire.resume_point import ROLLBACKS, ROWS, SOURCES
from ray_distill.train.worker.build import bases, frozen_sources
from ray_distill.train.worker.engines import Engines
from ray_distill.train.worker.rollouts import Rollouts
from ray_distill.train.worker.step import At, unseen
from ray_distill.types import Placement


class Saver:
    """Saver of checkpoints, with at most one pending save; every method is a collective."""

    def __init__(
        self,
        job: Job,
        placement: Placement,
        engines: Engines,
        rollouts: Rollouts,
        rollbacks: int = 0,
        at: At = unseen,
    ) -> None:
        self.job, self.placement, self.engines, self.rollbacks, self.at = job, placement, engines, rollbacks, at
        self.rollouts = rollouts
        self._bases = bases(job.config)
        # Only rank 0 writes the state, so that a teacher's files are read once.
        self._sources = frozen_sources(job.config) if placement.leads else {}
        self._writing: Writing | None = None
        self._step = -1

    def save(self, step: int, wait: bool = True) -> bool:
        """Save a checkpoint after ``step`` steps; without ``wait`` it writes its files during training.

        False if it has failed so far. The driver hears of a failure once for all ranks.
        """
        if step == self._step:
            return self.settle() if wait else True
        self.settle()
        self.at("save")
        self._step = step
        placement, folder = self.placement, self.job.run_dir / folder_name(step)
        ahead = AHEAD if wait else None
        try:
            self._writing = Writing(
                folder,
                self.engines.tensors(cut=False),
                self._state(step),
                placement.rank,
                placement.world,
                gather,
                ahead,
                chain(self.engines.pieces(), self.rollouts.tensors()),
            )
        except SaveFailed as error:
            return self._failed(error)
        return self.settle() if wait else True

    def poll(self) -> None:
        """Settle the pending save, if all ranks are done."""
        if self._writing is not None and all(gather(self._writing.done())):
            self.settle()

    def settle(self) -> bool:
        """Wait for the pending save; False if it failed."""
        writing, self._writing = self._writing, None
        if writing is None:
            return True
        self.at("settle")
        try:
            writing.finish()
        except SaveFailed as error:
            return self._failed(error)
        self.engines.carry(Checkpoint(writing.folder))
        return True

    def _failed(self, error: SaveFailed) -> bool:
        self._step = -1
        if self.placement.leads:
            stop = self.job.config.train.on_failed_save == "stop"
            ray.get(self.job.board.save_failed.remote(str(error), stop), timeout=60)
        return False

    def _state(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "roles": self.engines.state(),
            "config": self.job.config.dump(),
            "run_id": self.job.run_id,
            "data": self.job.stream.cache.folder.name,
            "world": self.placement.world,
            "bases": self._bases,
            SOURCES: self._sources,
            ROLLBACKS: self.rollbacks,
            SKIPPING: self.engines.skipping(),
            ROWS: ray.get(self.job.board.unwritten.remote(step), timeout=60) if self.placement.leads else [],
        }


def gather(value: Any) -> list[Any]:
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, value)
    return every
