"""The driver: prepare, train, evaluate, export, publish; one MLflow run, from start to FINISHED."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch

from ray_distill import __version__, checkpoint
from ray_distill.config import ConfigError, RunConfig
from ray_distill.config.keys import flatten
from ray_distill.data.cache import Cache
from ray_distill.data.pipeline import prepare
from ray_distill.data.stream import Stream, ordered
from ray_distill.diffusion.causal import chunk_lengths
from ray_distill.evaluate.compare import evaluate
from ray_distill.evaluate.report import loss_plot, table, write_report
from ray_distill.export.student import export
from ray_distill.models.codec import load_codec
from ray_distill.models.loading import check_folder
from ray_distill.track.tracker import Status, Tracker
from ray_distill.train.board import start_board
from ray_distill.train.job import Job, train_worker
from ray_distill.train.progress import Progress, clock
from ray_distill.train.schedule import total_updates
from ray_distill.train.stop import Signals, Stopped, watch_signals
from ray_distill.types import STUDENT

log = logging.getLogger(__name__)
RUN = "run.json"
ROWS = "metrics.jsonl"
REPORT = "report.json"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass
class Phases:
    """Seconds by phase of a run."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        say(f"== {name}")
        yield
        self.seconds[name] = round(time.monotonic() - began, 1)


def check(config: RunConfig) -> None:
    """What can be known to fail is known before a cluster starts; raises ConfigError or ValueError."""
    for role in config.method.roles:
        check_folder(
            config.model.family, config.source(role), f"roles.{role}.path" if config.role(role).path else "model.path"
        )
    metric = config.evaluate.metric
    if metric is not None and not (metric / "config.json").is_file():
        raise ConfigError(f"evaluate.metric = {metric}: no config.json there; remove the key to do without a metric")
    if not config.data.manifest.is_file():
        raise ConfigError(f"data.manifest = {config.data.manifest}: no such file")
    chunks, data = config.method.sampler().chunks, config.data
    if chunks is not None:
        codec = load_codec(config.model.path / "vae")
        chunk_lengths(codec.latent_shape(data.frames, data.height, data.width)[1], chunks)
    last = checkpoint.latest(config.run_dir)
    if last is not None:
        check_resumable(config, last)


def check_resumable(config: RunConfig, last: checkpoint.Checkpoint) -> None:
    """A run is resumed only as what it was; ConfigError names each key that differs and matters."""
    then, now = flatten(last.state["config"]), flatten(config.dump())
    fixed = (
        "seed",
        "method.",
        "model.family",
        "data.frames",
        "data.stride",
        "data.height",
        "data.width",
        "train.global_batch",
    )
    changed = [k for k in sorted(then.keys() | now.keys()) if then.get(k) != now.get(k) and k.startswith(fixed)]
    if changed:
        differences = ", ".join(f"{key} was {then.get(key)} and is {now.get(key)}" for key in changed)
        raise ConfigError(
            f"{last.folder} is another run's: {differences}. Choose another name, or remove {config.run_dir}"
        )


@contextmanager
def cluster() -> Iterator[None]:
    """The Ray that is there (a job's, or the caller's), else one of our own on this machine, ended with us."""
    if ray.is_initialized():
        yield
        return
    # Without an address ray.init would attach to whatever Ray runs on this host.
    address = os.environ.get("RAY_ADDRESS") or "local"
    local: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    ray.init(address=address, logging_level=logging.ERROR, logging_config=ray.LoggingConfig(log_level="ERROR"), **local)
    try:
        yield
    finally:
        ray.shutdown()


def launch(config: RunConfig) -> dict[str, Any]:
    """The whole run; returns its report. A second run under the same name goes on where the first one stood.

    Raises ConfigError before anything starts, Stopped after an orderly end on a signal, and the workers' own errors.
    """
    check(config)
    run_dir = config.run_dir
    run_dir.mkdir(parents=True, exist_ok=True)
    phases, began = Phases(), time.monotonic()
    tracker = _tracker(config)
    status: Status = "FAILED"
    try:
        # Ray installs handlers of its own when it starts; ours come after.
        with cluster(), watch_signals() as signals:
            with phases("prepare: videos to latents and text embeddings"):
                cache = make_cache(config)
                say(f"   {cache.card['clips']} clips, {cache.card['skipped']} skipped, latents {cache.latent_shape}")
            with phases("train"):
                last = train(config, cache, tracker, signals)
            report = _measure(config, cache, last, tracker, phases, began)
        status = "FINISHED"
        return report
    except (Stopped, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        tracker.end(status)


def _tracker(config: RunConfig) -> Tracker:
    """Continue the run's MLflow run where there is one."""
    path = config.run_dir / RUN
    run_id = json.loads(path.read_text())["run_id"] if path.is_file() else None
    tags = {
        "method": config.method.name,
        "family": config.model.family,
        "base_model": config.model.path.name,
        "version": __version__,
        "ray_job": os.environ.get("RAY_JOB_ID", ""),
    }
    params = {key: value for key, value in flatten(config.dump()).items() if value is not None}
    tracker = Tracker.start(config.track.uri, config.track.experiment, config.name, params, tags, run_id)
    if tracker.run_id:
        path.write_text(json.dumps({"run_id": tracker.run_id}))
    return tracker


def make_cache(config: RunConfig) -> Cache:
    return prepare(config.data, config.model.path, config.model.max_sequence_length)


def train(config: RunConfig, cache: Cache, tracker: Tracker, signals: Signals) -> checkpoint.Checkpoint:
    """Train to the last step, or to a stop on a signal (Stopped); returns the newest checkpoint."""
    last = checkpoint.latest(config.run_dir)
    if last is not None and last.state["data"] != cache.folder.name:
        raise ConfigError(
            f"{last.folder} was trained on other data (cache {last.state['data']}, now {cache.folder.name}): "
            f"choose another name, or remove {config.run_dir}"
        )
    if last is not None and last.step >= config.train.steps:
        say(f"   {config.name} is already trained to step {last.step}: {last.folder}")
        return last
    if last is not None:
        say(f"   {config.name} goes on from step {last.step}; choose another name for a new run")
    board = start_board()
    job = Job(config.dump(), config.run_dir, _stream(config, cache), board, tracker.run_id)
    progress = Progress(config.train.steps, logged_to(config.run_dir))
    signals.request_stop = board.request_stop.remote
    try:
        _fit(job, lambda: _drain(job, progress, tracker))
    finally:
        signals.request_stop = None
    last = checkpoint.latest(config.run_dir)
    if signals.signum is not None:
        raise Stopped(signals.signum, last.step if last else 0)
    if last is None or last.step < config.train.steps:
        raise RuntimeError(f"{config.run_dir}: training ended, but its last checkpoint is not there")
    return last


def newest(config: RunConfig) -> checkpoint.Checkpoint:
    """The run's newest whole checkpoint; ConfigError where it has none."""
    last = checkpoint.latest(config.run_dir)
    if last is None:
        raise ConfigError(f"{config.run_dir}: no checkpoint there yet; train it first: ray-distill train ...")
    return last


def _stream(config: RunConfig, cache: Cache) -> Stream:
    return Stream(
        cache=cache,
        seed=config.seed,
        start=0,
        steps=config.train.steps,
        world=config.train.workers,
        global_batch=config.train.global_batch,
        micro_batch=config.train.micro_batch,
        with_latents=config.method.uses_latents,
    )


def trainer(job: Job) -> ray.train.torch.TorchTrainer:
    """The Ray Train side of a run: its name and storage path are what it resumes by."""
    train = job.config.train
    resources: dict[str, float] = {"CPU": train.cpus_per_worker} | ({"GPU": 1} if train.use_gpu else {})
    return ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        scaling_config=ray.train.ScalingConfig(
            num_workers=train.workers, use_gpu=train.use_gpu, resources_per_worker=resources
        ),
        torch_config=ray.train.torch.TorchConfig(timeout_s=train.timeout_s),
        run_config=ray.train.RunConfig(
            name=job.config.name,
            storage_path=str(job.config.output_dir),
            failure_config=ray.train.FailureConfig(max_failures=train.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=train.checkpoints_keep),
        ),
        datasets={"train": job.data},
        dataset_config=ray.train.DataConfig(execution_options=ordered()),
    )


def _fit(job: Job, drain: Callable[[], None]) -> None:
    """``fit`` in a thread: in the main one Ray's own handler would abort the workers on Ctrl-C without saving."""
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
        raise failed[0]


def known(run_dir: Path) -> dict[str, Any]:
    """The run's report so far."""
    path = run_dir / REPORT
    return json.loads(path.read_text()) if path.is_file() else {}


def rows_of(run_dir: Path) -> list[dict[str, float]]:
    """The rows of a run so far, by step."""
    path = run_dir / ROWS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def logged_to(run_dir: Path) -> int:
    """The last step that is logged: a run that resumes from before it logs equal rows again, which are dropped."""
    rows = rows_of(run_dir)
    return int(rows[-1]["step"]) if rows else -1


def _drain(job: Job, progress: Progress, tracker: Tracker) -> None:
    rows, notes = ray.get(job.board.pull.remote(), timeout=60)
    for note in notes:
        say(f"   {note}")
    fresh = progress.new(rows)
    with (job.config.run_dir / ROWS).open("a") as file:
        for row in fresh:
            file.write(json.dumps(row) + "\n")
            tracker.metrics(int(row["step"]), {name: value for name, value in row.items() if name != "step"})


def _measure(
    config: RunConfig, cache: Cache, last: checkpoint.Checkpoint, tracker: Tracker, phases: Phases, began: float
) -> dict[str, Any]:
    """Evaluate, export, publish."""
    out = config.run_dir
    report: dict[str, Any] = {}
    if config.evaluate.enabled:
        with phases("evaluate: the student against its teacher, by samples"):
            report = evaluate(config, cache, last.folder, out)
    report |= {
        "prompt": cache.captions()[0],
        "steps": last.step,
        "student_updates": last.state["roles"][STUDENT]["updates"],
        "planned_student_updates": total_updates(config)[STUDENT],
    }
    with phases("export"):
        folder = export(config, last.folder, cache.latent_shape, report)
        if rows := rows_of(out):
            loss_plot(out / "losses.png", rows)
    report |= {"wall_seconds": round(time.monotonic() - began, 1), "phases": phases.seconds}
    write_report(out / REPORT, report)
    _publish(tracker, report, out)
    # MLflow keeps the alias "latest" for itself.
    tracker.register(folder, config.track.register_as or config.name, alias="newest")
    say("")
    say(table(report))
    say(
        f"\n{clock(report['wall_seconds'])} in all: "
        + ", ".join(f"{k.partition(':')[0]} {v} s" for k, v in phases.seconds.items())
    )
    return report


def _publish(tracker: Tracker, report: dict[str, Any], out: Path) -> None:
    values = {k: v for k, v in flatten(report).items() if isinstance(v, int | float) and not isinstance(v, bool)}
    tracker.metrics(int(report["steps"]), {f"evaluate/{key.replace('.', '/')}": value for key, value in values.items()})
    for name in (REPORT, "contact_sheet.png", "losses.png"):
        if (out / name).is_file():
            tracker.artifact(out / name)
    if (out / "videos").is_dir():
        tracker.artifact(out / "videos", "videos")
