"""The training loop of one worker: build the engines, resume, step, report, save."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from dataclasses import replace

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor

from ray_distill.checkpoint import Checkpoint
from ray_distill.checkpoint.layout import folder_name
from ray_distill.config import RunConfig
from ray_distill.config.stages import stage_at, stages
from ray_distill.data.feed.batches import micro_batches
from ray_distill.data.feed.fetch import Rows
from ray_distill.data.feed.order import share
from ray_distill.rng import StatelessRng
from ray_distill.train.wire.heartbeat import Pulse
from ray_distill.train.wire.job import Job
from ray_distill.train.worker import zero
from ray_distill.train.worker.build import start_engines
from ray_distill.train.worker.engines import Engines, NotFinite
from ray_distill.train.worker.laps import Laps
from ray_distill.train.worker.rollouts import Rollouts
from ray_distill.train.worker.rows import reduced
from ray_distill.train.worker.saving import Saver
from ray_distill.train.worker.step import train_step
from ray_distill.types import Placement

ROLLBACK_FACTOR = 0.5
"""Factor of the learning rates at each rollback."""


def work(job: Job, rows: Iterator[Rows]) -> None:
    """Train on ``rows`` to ``train.steps``, or to the step at which the driver asks for a stop; both end with a
    checkpoint."""
    context = ray.train.get_context()
    placement = Placement(context.get_world_rank(), context.get_world_size(), job.config.train.sequence_parallel)
    with Pulse(job.board, placement.rank) as pulse:
        _work(job, rows, placement, pulse)
    dist.destroy_process_group()  # without it a process sometimes aborts at exit


def _work(job: Job, rows: Iterator[Rows], placement: Placement, pulse: Pulse) -> None:
    config = job.config
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    last = job.resume_point()
    stream = replace(job.stream, start=last.step if last else 0)
    stage = stage_at(config, stream.start)
    engines = start_engines(config, stage, last, pulse.at)
    rollbacks = _rolled_back(job, engines)
    teacher = engines.frozen_hash()
    rollouts = resumed_rollouts(config, placement, last, device)
    reporter = Reporter(job, placement, engines, device, pulse, rollouts, rollbacks)
    rng = StatelessRng(config.seed)
    laps = Laps(pulse.at, device) if config.train.role_seconds else None
    if last is not None and placement.leads:
        ray.get(job.board.note.remote(f"resumed from step {last.step} ({last.folder})"), timeout=60)
    pulse.at("data", step=stream.start)
    for step, batches in enumerate(micro_batches(stream, rows, placement, device), stream.start):
        try:
            logs = train_step(config.method, engines, rollouts.join(batches), step, rng, laps or pulse.at)
        except NotFinite as error:  # on all ranks, which share the norm
            reporter.saver.settle()
            if placement.leads:
                ray.get(job.board.roll_back.remote(str(error)), timeout=60)
            raise
        stopping, leaving = reporter.add(step, logs | laps.take() if laps else logs)
        done = step + 1
        if done == stage.stop and engines.frozen_hash() != teacher:
            raise RuntimeError("the frozen teacher's weights changed during training")
        saved = True
        if stopping or leaving or is_due(config, done):
            saved = reporter.save(done, wait=stopping or leaving or done == stage.stop)
            rollouts.saved()
        if stopping:
            break
        if stage.stop == done < config.train.steps:
            if not saved:
                raise RuntimeError(f"the stage that begins at step {done} needs a checkpoint, which was not saved")
            stage, last = stage_at(config, done), Checkpoint(job.run_dir / folder_name(done))
            engines.close()  # others take their memory
            del engines, reporter.saver.engines
            zero.forget()
            engines = reporter.saver.engines = start_engines(config, stage, last, pulse.at)
            engines.rate_factor, teacher = ROLLBACK_FACTOR**rollbacks, engines.frozen_hash()
        pulse.at("data", step=done)
    pulse.at("end")
    most = max(most_memory(device), laps.most if laps else 0)  # laps begin the GPU's peak anew
    ray.get(job.board.report_memory.remote(most), timeout=60)
    dist.barrier()


def resumed_rollouts(
    config: RunConfig, placement: Placement, last: Checkpoint | None, device: torch.device
) -> Rollouts:
    """Streamed rollouts: those of the checkpoint ``last``, else new ones."""
    train, chunks = config.train, config.method.sampler().chunks
    positions = share(train.global_batch, placement.data_rank, placement.data_size, train.micro_batch)
    rollouts = Rollouts(config.method.streamed, positions, None if chunks is None else chunks.window)
    if last is not None:
        rollouts.load(last, device)
    return rollouts


def most_memory(device: torch.device) -> int:
    """Peak bytes of this process: torch's allocations on a GPU, else resident memory with libraries."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KiB on Linux


def _rolled_back(job: Job, engines: Engines) -> int:
    """Number of the run's rollbacks because of values that were not finite; RuntimeError at too many."""
    count: int = ray.get(job.board.rollbacks.remote(), timeout=60)
    if count > job.config.train.rollbacks:
        raise RuntimeError(
            f"loss or gradient stayed non-finite after {count - 1} rollbacks (train.rollbacks = "
            f"{job.config.train.rollbacks}): lower the learning rates and go on from the last checkpoint"
        )
    engines.rate_factor = ROLLBACK_FACTOR**count
    return count


def is_due(config: RunConfig, done: int) -> bool:
    """True if a checkpoint is due after ``done`` steps."""
    cadences = [config.train.checkpoint_every, config.evaluate.every or config.train.checkpoint_every]
    return any(done % cadence == 0 for cadence in cadences) or done in {stage.stop for stage in stages(config)}


class Reporter:
    """Send rows to the board and save checkpoints. Ranks meet only every few seconds, by rank 0's clock."""

    def __init__(
        self,
        job: Job,
        placement: Placement,
        engines: Engines,
        device: torch.device,
        pulse: Pulse,
        rollouts: Rollouts,
        rollbacks: int = 0,
    ) -> None:
        self.job, self.placement, self.device, self.pulse = job, placement, device, pulse
        self.saver = Saver(job, placement, engines, rollouts, rollbacks, pulse.at)
        self.notice: ray.train.PreemptionInfo | None = None
        self.rows: list[tuple[int, dict[str, Tensor]]] = []
        self.meeting = time.monotonic()
        self.next_step: int | None = None

    def add(self, step: int, logs: dict[str, Tensor]) -> tuple[bool, bool]:
        """Keep this step's values; at a meeting gather the values of all ranks and push rows.

        Returns (whether to stop, whether a node will go and needs a save that has not happened yet)."""
        self.rows.append((step, logs))
        # Also before each checkpoint: rows of steps that a resumed run does not repeat must not die with a worker.
        saving = is_due(self.job.config, step + 1)
        if self.next_step not in (None, step) and not saving:
            return False, False
        self.pulse.at("meet")
        return self._meet(step), self._noticed(step)

    def _noticed(self, step: int) -> bool:
        """True if Ray has announced since the last meeting that nodes will go; the same on all ranks."""
        notice = ray.train.get_preemption_info()
        fresh = notice is not None and notice != self.notice
        self.notice = notice
        if fresh and self.placement.leads:
            ranks = ", ".join(map(str, notice.preempted_ranks))
            text = f"a node with ranks {ranks} is about to be taken away: saving step {step + 1}"
            ray.get(self.job.board.note.remote(text), timeout=60)
        return fresh

    def _meet(self, step: int) -> bool:
        values = torch.cat([value.to(self.device, torch.float32) for _, logs in self.rows for value in logs.values()])
        every = [torch.empty_like(values) for _ in range(self.placement.world)]
        dist.all_gather(every, values)  # a step has the same names and numbers of values on all ranks
        now = time.monotonic()
        pace = (now - self.meeting) / len(self.rows)
        verdict = [False, 1]
        if self.placement.leads:
            rows = reduced(self.rows, torch.stack(every[:: self.placement.seq_size]).cpu())  # these log the same
            stopping = ray.get(self.job.board.push.remote(rows), timeout=60)
            # The first step is slow, so its pace is no guide to the others.
            ahead = 1 if self.next_step is None else max(1, round(self.job.config.train.log_every_s / max(pace, 1e-6)))
            verdict = [stopping, ahead]
        dist.broadcast_object_list(verdict, src=0)
        self.rows, self.meeting, self.next_step = [], now, step + int(verdict[1])
        self.saver.poll()
        return bool(verdict[0])

    def save(self, step: int, wait: bool = True) -> bool:
        """Save a checkpoint after ``step`` steps; without ``wait``, and if so configured, write it during training."""
        return self.saver.save(step, wait or not self.job.config.train.checkpoint_in_background)
