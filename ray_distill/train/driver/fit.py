"""Run the training on Ray Train and watch it from the driver, to the last step or an orderly stop."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch

from ray_distill import checkpoint
from ray_distill.config import ConfigError, RunConfig
from ray_distill.config.sequence import check_tokens
from ray_distill.data.feed.stream import Stream, in_turn, start_actors
from ray_distill.data.prepare.beside import Filling
from ray_distill.data.store.cache import Cache
from ray_distill.errors import Stopped
from ray_distill.evaluate.generate import check_gpus
from ray_distill.evaluate.names import METRICS, PAGE
from ray_distill.jsonl import Series, read_rows
from ray_distill.track.names import grouped
from ray_distill.track.tracker import Tracker
from ray_distill.train.driver.begin import check_init
from ray_distill.train.driver.checks.sequence import check_nodes
from ray_distill.train.driver.console import say
from ray_distill.train.driver.health import Health
from ray_distill.train.driver.progress import Progress, Row
from ray_distill.train.driver.resume import averages, check_cache_of, otherwise_trained
from ray_distill.train.driver.signals import Signals
from ray_distill.train.wire.board import start_board
from ray_distill.train.wire.job import Job, Split
from ray_distill.train.wire.resume_point import ROLLBACKS, kept_rows, resumed_from
from ray_distill.train.worker.entry import train_worker

LOOKS = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
"""Ray Train's interval between looks at its workers, 2 s by default: a run goes on at the first look after its end."""


def train(
    config: RunConfig,
    cache: Cache,
    tracker: Tracker,
    signals: Signals,
    beside: Callable[[bool], None],
    rewind: Callable[[int], None] = lambda step: None,
) -> tuple[checkpoint.Checkpoint, int]:
    """Train to the last step, or to a stop on a signal (Stopped).

    Returns the newest checkpoint and the peak bytes of a worker (0 if no step was left). It calls ``beside`` twice per
    second meanwhile, with whether a new row has come, and ``rewind`` with the step from which a rollback trains anew.
    """
    last = _begin(config, cache)
    logged, series = logged_to(config.run_dir), Series(config.run_dir / METRICS)
    if last is not None and last.step >= config.train.steps:
        _log([row for row in kept_rows(last, config.run_dir) if row["step"] > logged], config, tracker, series)
        return last, 0
    board = start_board(config.train.hang_timeout_s, last.state.get(ROLLBACKS, 0) if last else 0)
    stream = stream_of(config, cache)
    check_tokens(config, stream.buckets)  # a dataset may have clips of many sizes
    if config.evaluate.enabled or config.evaluate.every:
        check_gpus(config)
    _say_limits(config, stream)
    filling = filling_of(config, replace(stream, start=last.step if last else 0))
    job = Job(config.dump(secrets=True), config.run_dir, stream, board, tracker.run_id)
    progress = Progress(config.train.steps, logged)
    health = Health(rows_of(config.run_dir), config.computes_in_bf16, tracker)
    trains = False

    def drain() -> None:
        nonlocal trains
        rows = _drain(job, progress, tracker, series, rewind)
        trains = trains or bool(rows)
        health.take(rows)
        beside(trains)
        if filling is not None:
            filling.check()

    signals.request_stop = board.request_stop.remote
    os.environ.setdefault(LOOKS, "1")
    try:
        start_actors()
        _fit(job, drain)
    finally:
        progress.close()
        signals.request_stop = None
        if filling is not None:
            filling.stop()
    return _end(config, signals, board), ray.get(board.memory.remote(), timeout=60)


def _begin(config: RunConfig, cache: Cache) -> checkpoint.Checkpoint | None:
    """The checkpoint that the run resumes from, None for a new run; ConfigError if it was trained on other data."""
    last = resumed_from(config.run_dir, str(config.train.resume_from))
    if last is not None:
        check_cache_of(config, last, cache)
    if last is not None and last.step >= config.train.steps:
        # The export needs a checkpoint read whole; after a damaged one the run trains on from the one before.
        last = resumed_from(config.run_dir, str(config.train.resume_from), thorough=True, tell=say)
    if last is not None and last.step >= config.train.steps:
        say(f"   {config.name} is already trained to step {last.step}: {last.folder}")
    elif last is not None:
        say(f"   {config.name} goes on from step {last.step} ({last.folder}); choose another name for a new run")
        for line in averages(config, last):
            say(f"   {line}")
    elif config.train.init_from is not None:
        check_init(config, lambda line: say(f"   {line}"))
        checkpoint.Checkpoint(config.train.init_from).verify()
        say(f"   {config.name} begins with the weights of {config.train.init_from}")
    return last


def _say_limits(config: RunConfig, stream: Stream) -> None:
    """Print costs of the cluster's nodes and of the clips' sizes."""
    if line := check_nodes(config, [node["Resources"] for node in ray.nodes() if node["Alive"]]):
        say(f"   warning: {line}")
    if stream.left_out:
        say(
            f"   {stream.left_out} clips are left out, since their sizes do not fill a global batch "
            "(data.keep_small_buckets)"
        )


def _end(config: RunConfig, signals: Signals, board: Any) -> checkpoint.Checkpoint:
    """The last checkpoint; Stopped after a signal, RuntimeError if the last step was not saved."""
    last = checkpoint.latest(config.run_dir, thorough=signals.signum is None)
    if signals.signum is not None:
        raise Stopped(signals.signum, last.step if last else 0)
    if last is None or last.step < config.train.steps:
        why = ray.get(board.unsaved.remote(), timeout=60)
        stands = f"the newest is {last.folder}" if last else "there is none"
        raise RuntimeError(f"training ended without its last checkpoint ({stands}): {why or 'it is not there'}")
    return last


def newest(config: RunConfig, as_trained: bool = True) -> checkpoint.Checkpoint:
    """The run's newest checkpoint that is whole in every byte; ConfigError if there is none. With ``as_trained`` also
    where ``config`` has another method, or other adapters, than its run: numbers and exports would be another
    student's."""
    last = checkpoint.latest(config.run_dir, thorough=True)
    if last is None:
        raise ConfigError(f"{config.run_dir}: this run has no checkpoint yet; train first: ray-distill train ...")
    changed = otherwise_trained(config, last)
    if changed and as_trained:
        raise ConfigError(
            f"{last.folder} was trained otherwise: {', '.join(changed)}. Give the keys with which it was trained; "
            f"{config.run_dir / PAGE} lists them"
        )
    if changed:
        say(f"   warning: {last.folder} was trained otherwise: {', '.join(changed)}")
    return last


def stream_of(config: RunConfig, cache: Cache) -> Stream:
    prepared = config.method.prepared
    return Stream(
        cache=cache,
        seed=config.seed,
        start=0,
        steps=config.train.steps,
        world=config.train.workers,
        global_batch=config.train.global_batch,
        micro_batch=config.train.micro_batch,
        with_latents=config.method.uses_latents,
        fields=config.model.encoders.fields,
        states=len(prepared.levels) if prepared is not None else 0,
        keep_small_buckets=config.data.keep_small_buckets,
        caption_dropout=config.data.caption_dropout,
        seq=config.train.sequence_parallel,
    )


def filling_of(config: RunConfig, stream: Stream) -> Filling | None:
    """Start encoders beside the training if the configuration wants them; ConfigError if nothing is left for them."""
    if not stream.waits:
        return None
    train, there = config.train, ray.cluster_resources()
    taken = {"CPU": train.workers * train.cpus_per_worker, "GPU": float(train.workers * train.use_gpu)}
    needed = {"CPU": 0.2, "GPU": config.data.encoder_gpus}
    left = {name: there.get(name, 0.0) - count for name, count in taken.items()}
    for name, least in needed.items():
        # Below 0 the cluster must still grow for the training itself.
        if 0 <= left[name] < least:
            raise ConfigError(
                f"data.stream: the training takes {taken[name]:g} of the cluster's {there.get(name, 0):g} {name}s, and "
                f"encoders beside it need {least:g}; lower train.workers or train.cpus_per_worker, or set "
                "data.stream=false"
            )
    cpus = left["CPU"] if left["CPU"] > 0 else there.get("CPU", 1.0)
    data = config.data
    if data.encoder_gpus and left["GPU"] > 0:
        # An encoder that waits for a GPU would take that of a training worker that restarts.
        data = data.model_copy(update={"encoders": min(data.encoders, int(left["GPU"] / data.encoder_gpus))})
    filling = Filling(data, config.model.encoders, stream.cache, stream.row_order(), cpus, say)
    filling.start()
    return filling


def trainer(job: Job) -> ray.train.torch.TorchTrainer:
    """Ray Train's trainer of a run, which resumes by its name and storage path."""
    train = job.config.train
    resources: dict[str, float] = {"CPU": train.cpus_per_worker} | ({"GPU": 1} if train.use_gpu else {})
    workers: Any = train.workers if train.min_workers is None else (train.min_workers, train.workers)
    return ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=train.use_gpu, resources_per_worker=resources
        ),
        torch_config=ray.train.torch.TorchConfig(timeout_s=train.timeout_s),
        run_config=ray.train.RunConfig(
            name=job.config.name,
            storage_path=str(job.config.output_dir),
            failure_config=ray.train.FailureConfig(
                max_failures=train.max_failures,
                max_preemption_failures=train.max_preemptions,  # type: ignore[call-arg]
            ),
        ),
        datasets={"train": job.data},  # type: ignore[dict-item]
        dataset_config=Split(execution_options=in_turn()),
    )


def _fit(job: Job, drain: Callable[[], None]) -> None:
    """Run ``fit`` in a thread, since in the main thread Ray's handler would abort the workers on Ctrl-C without
    saving."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            trainer(job).fit()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.5)
        drain()
    drain()
    if failed:
        cause = ray.get(job.board.cause.remote(), timeout=60)
        if cause:
            raise RuntimeError(f"{cause}\n{failed[0]}") from failed[0]
        raise failed[0]


def rows_of(run_dir: Path) -> list[Row]:
    """Rows of a run so far, by step."""
    return [*read_rows(run_dir / METRICS, "step")]


def logged_to(run_dir: Path) -> int:
    """The last logged step. A run that resumes from an earlier step logs equal rows again, which the driver drops."""
    rows = rows_of(run_dir)
    return int(rows[-1]["step"]) if rows else -1


def _drain(job: Job, progress: Progress, tracker: Tracker, series: Series, rewind: Callable[[int], None]) -> list[Row]:
    """Send rows to the screen, the run's folder and MLflow; returns the new ones."""
    rows, notes, again = ray.get(job.board.pull.remote(not series.waiting), timeout=60)
    if again is not None:
        progress.rewind(again)
        series.cut(again)
        rewind(again)
    for note in notes:
        say(f"   {note}")
    fresh = progress.new(rows)
    _log(fresh, job.config, tracker, series)
    return fresh


def _log(rows: list[Row], config: RunConfig, tracker: Tracker, series: Series) -> None:
    """Send rows to MLflow and the run's folder, the latter last: a driver that begins logs what the folder lacks."""
    method = config.method
    for row in rows:
        values = {grouped(name, method.roles, method.name): value for name, value in row.items() if name != "step"}
        tracker.metrics(int(row["step"]), values)
    series.add(rows)
