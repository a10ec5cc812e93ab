"""Ray Data's dataset of the cache's rows, in the data plan's order, split among training workers.

Fetch tasks run in processes of their own: this file must not import torch, which would cost each process seconds.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import DataContext, Dataset, Datasource, ExecutionOptions, ReadTask
from ray.data.block import BlockAccessor, BlockMetadata

from ray_distill.data.feed.order import Buckets, Plan, caption_numbers, loses_caption, share, substitutes, usable
from ray_distill.data.store.cache import Cache
from ray_distill.data.store.growing import growing
from ray_distill.models.spec import Fields, of_clips

COND = "cond."
"""Prefix of a block's columns that are fields of Cond."""


def quiet() -> None:
    """Hide Ray Data's plans, which it logs at INFO, and its bars, which a terminal shows by names of operators: a user
    wants counts and the time left."""
    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # else it warns that it shows none


def start_actors() -> None:
    """Have Ray Data start the two actors of each of its executions, without waiting for them: while Ray Train's
    controller starts one core is idle, and later none."""
    quiet()
    ray.data.from_blocks([pa.table({"row": [0]})]).take(1)  # a plan without tasks


@dataclass(frozen=True)
class Stream:
    """The training data from step ``start`` on, as a dataset that Ray Train splits among ``world`` workers.

    A block holds one rank's samples of ``steps_per_block`` consecutive steps, and block k goes to rank k mod world;
    each row carries its sample id, so that the worker can check it against the plan. Each group of ``seq`` neighbouring
    ranks shares the tokens of the same clips, and each of its ranks fetches its own copy of the clips.
    """

    cache: Cache
    seed: int
    start: int
    steps: int
    world: int
    global_batch: int
    micro_batch: int
    with_latents: bool
    fields: Fields
    """The fields of Cond."""
    states: int = 0
    """Number of states of the teacher's trajectory that each row has beside its latents."""
    keep_small_buckets: bool = True
    caption_dropout: float = 0.0
    block_bytes: int = 64 << 20
    seq: int = 1

    def __getstate__(self) -> dict[str, Any]:
        """The stream without its computed values, since thousands of fetch tasks carry it."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def plan(self) -> Plan:
        return _plan(self.cache, self.seed, self.global_batch, self.keep_small_buckets)

    @property
    def buckets(self) -> Buckets:
        return self.plan.buckets

    @property
    def left_out(self) -> int:
        """Number of rows that training leaves out because their bucket is too small."""
        return int((self.cache.choices > 0).sum()) - sum(map(len, self.buckets.values()))

    @property
    def steps_per_block(self) -> int:
        """Number of steps that fit into ``block_bytes``. Ray Data's executor spins while blocks wait, and takes a good
        part of a core from the training; where a few blocks hold all data, the executor ends before the first step."""
        latents = max(4 * math.prod(shape) for shape in self.buckets) * self.with_latents * (1 + self.states)
        row = latents + max(sum(field.nbytes(shape) for field in self.fields.values()) for shape in self.buckets)
        fitting = self.block_bytes // (row * self.global_batch // (self.world // self.seq))
        # Smaller blocks while clips are being encoded, since a worker waits for a whole block.
        return max(1, min(fitting, self.plan.steps_per_epoch // 32) if self.waits else fitting)

    @property
    def waits(self) -> bool:
        """True where a fetch may have to wait for rows that are still being encoded."""
        return self.cache.grows and (self.with_latents or bool(of_clips(self.fields)))

    def row_order(self) -> list[int]:
        """All row numbers, in the order in which training first needs them."""
        first = range(self.start, self.start + 2 * self.plan.steps_per_epoch)  # every whole epoch has every row
        return list(dict.fromkeys(int(row) for step in first for row in self.plan[step]))

    def dataset(self) -> Dataset:
        blocks = -(-(self.steps - self.start) // self.steps_per_block) * self.world
        context = DataContext.get_current()
        context.target_max_block_size = 1 << 32  # a block that Ray splits would land on two ranks
        quiet()
        # The training workers hold the CPUs, so that a fetch at 1 CPU would never start. A fetch that waits for
        # encoders must not hold the CPUs that the encoders need.
        how: dict[str, Any] = {"num_cpus": 0.01, "concurrency": 2 * self.world} if self.waits else {"num_cpus": 0.1}
        return ray.data.read_datasource(_PlanSource(self, blocks), override_num_blocks=blocks, **how)

    def block(self, number: int) -> dict[str, Any]:
        """The columns of one block: sample_id, the latents' shape [4], ``cond.<name>`` of each field and, where the
        method uses them, latents and states.

        All but the first two are stored bytes, since the steps of a block may differ in shape.
        """
        part, rank = divmod(number, self.world)
        first = self.start + part * self.steps_per_block
        steps = range(first, min(first + self.steps_per_block, self.steps))
        data_rank, data_size = rank // self.seq, self.world // self.seq
        mine = share(self.global_batch, data_rank, data_size, self.micro_batch).reshape(-1)
        stored = ["latents"] * self.with_latents + ["states"] * (self.states > 0)
        columns = ["shape", *stored]
        numbers = np.concatenate([self.plan[step][mine] for step in steps]).tolist()
        if self.waits:
            epochs = [step // self.plan.steps_per_epoch for step in steps for _ in mine]
            numbers = self._wait_for(numbers, epochs)
        sample_ids = np.concatenate([step * self.global_batch + mine for step in steps])
        numbers = self._with_captions(numbers, sample_ids)
        rows, conditions = self.cache.rows(numbers, columns), self.cache.conditions(numbers, self.fields)
        shapes = np.array([row["shape"] for row in rows], dtype=np.int64)
        if self.caption_dropout:
            null = self.cache.prompt("null", self.fields)
            for number in np.flatnonzero(loses_caption(self.seed, sample_ids, self.caption_dropout)).tolist():
                conditions[number] |= null
        block: dict[str, Any] = {"sample_id": sample_ids, "shape": shapes}
        block |= {COND + name: [row[name] for row in conditions] for name in self.fields}
        return block | {name: [row[name] for row in rows] for name in stored}

    def _with_captions(self, numbers: Sequence[int], sample_ids: np.ndarray) -> list[int]:
        """The rows of the captions that these samples draw; a clip's further captions are the rows behind its own."""
        choices = self.cache.choices[numbers]
        if (choices == 1).all():
            return list(numbers)
        captioned: list[int] = (np.asarray(numbers) + caption_numbers(self.seed, sample_ids, choices)).tolist()
        return captioned

    def _wait_for(self, numbers: Sequence[int], epochs: Sequence[int]) -> list[int]:
        """Wait until all rows are encoded; return their numbers, with a substitute for each row that cannot be
        encoded."""
        ids = self.cache.index["id"]
        store = growing(self.cache.latents_folder)
        store.wait_for(ids[number].as_py() for number in numbers)
        if self.cache.images_folder:
            needed_ids = {ids[number].as_py() for number in numbers}
            growing(self.cache.images_folder).wait_for(needed_ids & store.places.keys())

        def row_or_substitute(number: int, epoch: int) -> int:
            if ids[number].as_py() in store.places:
                return number
            bucket = next(rows for rows in self.buckets.values() if number in rows)
            for other in substitutes(bucket, self.seed, epoch, number).tolist():
                store.wait_for([ids[other].as_py()])
                if ids[other].as_py() in store.places:
                    return int(other)
            raise ValueError(
                f"data.stream = true: none of the {len(bucket)} clips of one size can be decoded; give other clips"
            )

        return [row_or_substitute(number, epoch) for number, epoch in zip(numbers, epochs, strict=True)]


@lru_cache(maxsize=4)
def _plan(cache: Cache, seed: int, global_batch: int, keep_small: bool) -> Plan:
    return Plan(usable(cache.buckets(), cache.passes, global_batch, keep_small), seed, global_batch, cache.passes)


class _PlanSource(Datasource):
    """One read task for each block of the stream."""

    def __init__(self, stream: Stream, blocks: int) -> None:
        super().__init__()
        self.stream, self.blocks = stream, blocks

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)

        def task(number: int) -> ReadTask:
            return ReadTask(lambda: [BlockAccessor.batch_to_block(self.stream.block(number))], unknown)

        return [task(number) for number in range(self.blocks)]


def in_turn() -> ExecutionOptions:
    """Ray Data's options under which block k goes to rank k mod world, in whatever order the fetches end."""
    return ExecutionOptions(preserve_order=True)
