"""Run all phases in order: prepare, train, evaluate, export, publish; one MLflow run from start to end."""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_distill import __version__, checkpoint
from ray_distill.aside import aside
from ray_distill.checkpoint.retention import prune
from ray_distill.config import RunConfig
from ray_distill.config.keys import flatten
from ray_distill.data.prepare.index import SHEET, summary
from ray_distill.data.prepare.pipeline import prepare
from ray_distill.data.store.cache import Cache
from ray_distill.errors import ConfigError, Stopped
from ray_distill.evaluate.compare import baseline, evaluate
from ray_distill.evaluate.prompts import encode_prompts
from ray_distill.evaluate.real import real_features
from ray_distill.export.hub import Hub
from ray_distill.report.journal import Journal, beginning
from ray_distill.report.page import write_page
from ray_distill.track.client import Status, one_line
from ray_distill.track.tracker import Tracker
from ray_distill.track.webhook import WebHook
from ray_distill.train.driver.check import check, check_preparation, warnings
from ray_distill.train.driver.checks.evaluation import check_cache
from ray_distill.train.driver.cluster import cluster
from ray_distill.train.driver.console import say
from ray_distill.train.driver.fit import train
from ray_distill.train.driver.forecast import Forecast, import_export
from ray_distill.train.driver.new_checkpoints import Arrivals
from ray_distill.train.driver.publish import (
    export_student,
    plot,
    publish,
    publish_page,
    publish_plot,
    report_so_far,
    trained,
)
from ray_distill.train.driver.resume import changes, kept_cache
from ray_distill.train.driver.run_lock import claim
from ray_distill.train.driver.signals import Signals, watch_signals
from ray_distill.train.driver.system_metrics import ray_job, ray_logs, watch_nodes
from ray_distill.train.driver.validations import Row, Validations
from ray_distill.train.wire.resume_point import resumed_from


@dataclass
class Phases:
    """Seconds by phase of a run."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        say(f"== {name}")
        yield
        self.seconds[name.partition(":")[0]] = round(time.monotonic() - began, 1)


@dataclass(frozen=True)
class Trial:
    """A run as part of a sweep, nested in ``parent_run_id``; ``report`` takes each validation and may raise SystemExit.

    A trial ends with its last validation: only the best trial gets an evaluation against the teacher and an export.
    """

    parent_run_id: str | None
    report: Callable[[Row], None]


@dataclass(frozen=True)
class Outlets:
    """Outlets of a run: MLflow, a web hook, the hub. None of them stops the run."""

    tracker: Tracker
    hook: WebHook
    hub: Hub

    def close(self, status: Status) -> None:
        self.hub.close()
        self.tracker.end(status)
        self.hook.close()


def launch(config: RunConfig, trial: Trial | None = None, source: Callable[[str], str] | None = None) -> dict[str, Any]:
    """Run all phases; returns the report. A second run under the same name resumes the first. ``source`` names the
    place that set a key, for the run's journal.

    Raises ConfigError before anything starts, Stopped after an orderly end on a signal, and the workers' own errors.
    """
    check(config)
    with claim(config.run_dir):
        return _launch(config, trial, source)


def _launch(config: RunConfig, trial: Trial | None, source: Callable[[str], str] | None) -> dict[str, Any]:
    journal, error, step = Journal(config.run_dir), "", _resumed_step(config)
    journal.add("start", **beginning(config, step, warnings(config), source))
    seen = config if trial is None else without_outlets(config)
    hook, hub = WebHook(seen.track.webhook, config.name), Hub(seen)
    # MLflow's run opens while Ray starts: each mostly imports, or waits.
    outlets = Outlets(start_tracker(config, trial.parent_run_id if trial else None, wait=False), hook, hub)
    status: Status = "FAILED"
    try:
        # Ray installs handlers of its own when it starts; ours come after.
        with cluster(), watch_signals() as signals, watch_nodes(outlets.tracker.system, outlets.tracker.tags):
            outlets.tracker.opened()
            gc.freeze()  # no network stands here yet: what is frozen was imported, and a search through it takes 0.7 s
            report = _run(config, trial, outlets, signals, journal)
            # A second of one core, while Ray ends on another.
            plotted = None if trial else aside(functools.partial(plot, config.run_dir, report))
        if plotted is not None:
            publish_plot(plotted, config.run_dir, outlets.tracker)
        status = "FINISHED"
        hook.send("end", f"{config.name} has ended", status=status)
        return report
    except (Stopped, KeyboardInterrupt, SystemExit) as stop:
        status, error = "KILLED", str(stop)
        hook.send("end", f"{config.name} was stopped", status=status)
        raise
    except Exception as failure:  # reported, and raised again
        error = one_line(failure)
        if step and isinstance(failure, ConfigError):  # refused: the run is what it was
            status = "FINISHED" if step >= config.train.steps else "KILLED"
        hook.send("failure", error, status=status)
        raise
    finally:
        journal.add("end", status=status, error=error)
        stopped = status == "KILLED"
        if stopped:  # whoever stops a run may not wait for long: MLflow's end comes before the page
            outlets.close(status)
        if trial is None:
            publish_page(lambda: write_page(config.run_dir), outlets.tracker)
        if not stopped:
            outlets.close(status)


def _resumed_step(config: RunConfig) -> int:
    """The step of the checkpoint that the run resumes from; 0 for a new run."""
    last = resumed_from(config.run_dir, str(config.train.resume_from))
    return last.step if last else 0


def without_outlets(config: RunConfig) -> RunConfig:
    """The configuration without web hook and publication, for trials of a sweep."""
    track = config.track.model_copy(update={"webhook": None})
    return config.model_copy(update={"publish": None, "track": track})


def _run(
    config: RunConfig, trial: Trial | None, outlets: Outlets, signals: Signals, journal: Journal
) -> dict[str, Any]:
    """Run the phases on the Ray that has been started."""
    tracker, hook, hub = outlets.tracker, outlets.hook, outlets.hub
    phases, began = Phases(), time.monotonic()
    tracker.tags({"ray_job": ray_job()})
    _say_head(config)
    hook.send("start", f"{config.name}: {config.method.name}", steps=config.train.steps)
    with phases("prepare: videos to latents and text embeddings"):
        cache = _prepared(config, import_export if trial is None else lambda: None)
    log_data(config, cache, tracker)
    journal.add("data", sheet=str(cache.folder / SHEET), **cache.card)
    if trial is None:
        _look_first(config, cache, tracker, phases)
    validations = Validations(config, cache, tracker, trial.report if trial else None, hook)

    def tidy() -> None:
        prune(config.run_dir, config.train.checkpoints_keep, validations.kept)

    def saved(folder: Path, step: int) -> None:
        hook.send("checkpoint", f"step {step} is saved", step=step)
        hub.checkpoint(folder, step, cache.latent_shape)
        tidy()

    arrivals = Arrivals(config.run_dir, saved)

    forecast = Forecast(config, journal)

    def beside(trains: bool) -> None:
        if trial is None and forecast.works(trains):
            return  # what the others import would meet the forecast's imports: findings/lazy_threads.sh
        validations.poll()
        arrivals.poll()

    def rewind(step: int) -> None:
        validations.rewind(step)
        arrivals.rewind(step)

    with phases("train"):
        last, memory = train(config, cache, tracker, signals, beside, rewind)
    forecast.wait()
    arrivals.poll()
    validations.finish()
    tidy()  # the last validation may have found another best
    if trial is not None:
        return {"validations": validations.rows}
    measured = _measured(config, cache, last.folder, phases)
    gib = round(memory / 2**30, 2) if memory else report_so_far(config.run_dir).get("memory_gib")
    report = measured | trained(config, cache, last) | {"memory_gib": gib}
    with phases("export"):
        folder = export_student(config, cache, last, report)
    report |= {"wall_seconds": round(time.monotonic() - began, 1), "phases": phases.seconds}
    if repository := hub.finish(folder):
        report["published"] = repository
    publish(config, tracker, report, folder)
    return report


def _measured(config: RunConfig, cache: Cache, checkpoint: Path, phases: Phases) -> dict[str, Any]:
    """Report of the evaluation of a checkpoint; empty where the evaluation is off."""
    if not config.evaluate.enabled:
        return {}
    with phases("evaluate: samples of the student against its teacher's"):
        return evaluate(config, cache, checkpoint, config.run_dir)


def _look_first(config: RunConfig, cache: Cache, tracker: Tracker, phases: Phases) -> None:
    """Phases before the first step: a look at data and teacher, for a new run on GPUs, the teacher's videos, and what
    validations compare with, since the training's workers may leave no CPU for it."""
    if config.train.use_gpu and config.evaluate.preflight.first and not _resumed_step(config):
        from ray_distill.train.looks import first_look  # plan takes a second to import

        with phases("preflight: data, and samples of the teacher"):
            first_look(config, cache)
    if config.evaluate.baseline:
        with phases("baseline: samples of the teacher, before training"):
            _log_baseline(config, cache, tracker)
    if config.evaluate.every and config.evaluate.metric:
        with phases("features: the data's clips by evaluate.metric, for validations"):
            real_features(config, cache)


def _log_baseline(config: RunConfig, cache: Cache, tracker: Tracker) -> None:
    """Log the teacher's videos, once per run."""
    if videos := baseline(config, cache):
        tracker.videos(videos, 0)


def _prepared(config: RunConfig, meanwhile: Callable[[], None]) -> Cache:
    """Prepare the run's cache, and check that it fits the run."""
    cache = cache_of(config, meanwhile)
    check_cache(config, cache)
    say(f"   {summary(cache.card)}")
    encode_prompts(config)
    return cache


def _say_head(config: RunConfig) -> None:
    """Print the run's method, the place of Ray's output, warnings, and whether the GPUs have room."""
    say(f"== {config.name}: {config.method.name}: {config.method.describe()}")
    say(f"   logs of Ray and its workers: {ray_logs()}")
    for message in warnings(config):
        say(f"   warning: {message}")
    if config.train.use_gpu:
        from ray_distill.train.driver.gpu_memory import check_room  # plan takes a second to import

        if line := check_room(config):
            say(f"   {line}")


def start_tracker(config: RunConfig, parent_run_id: str | None = None, wait: bool = True) -> Tracker:
    """Start the tracker, and continue the run's MLflow run if there is one; without ``wait`` call ``opened`` later."""
    tags = {
        "method": config.method.name,
        "family": config.model.family,
        "base_model": config.model.path.name,
        "steps": str(config.train.steps),
        "version": __version__,
    }
    params = {key: value for key, value in flatten(config.dump()).items() if value is not None}
    track, last = config.track, checkpoint.latest(config.run_dir)
    run_id = last.state.get("run_id") if last else None  # where the run's folder has lost it
    return Tracker.start(
        track.uri, track.experiment, config.name, params, tags, run_id, parent_run_id, config.run_dir, wait=wait
    )


def make_cache(config: RunConfig, meanwhile: Callable[[], None] = lambda: None) -> Cache:
    """Make the cache of the run's data, unless it exists."""
    return prepare(config.data, config.model.encoders, say, meanwhile)


def cache_of(config: RunConfig, meanwhile: Callable[[], None] = lambda: None) -> Cache:
    """The cache of a resumed run, even if its sources have changed; else the cache of the current data."""
    cache = kept_cache(config)
    if cache is None:
        return make_cache(config, meanwhile)
    for line in changes(config, cache):
        say(f"   warning: {line}")
    return cache


def prepare_alone(config: RunConfig) -> Cache:
    """Encode all clips, whatever data.stream is; card and sheet go to the MLflow run that the training will
    continue."""
    check_preparation(config)
    data = config.data.model_copy(update={"stream": False})
    with claim(config.run_dir), cluster():
        cache = make_cache(config.model_copy(update={"data": data}))
        tracker = start_tracker(config)
        log_data(config, cache, tracker)
        tracker.end("FINISHED")
    return cache


def log_data(config: RunConfig, cache: Cache, tracker: Tracker) -> None:
    tracker.dataset(config.data.title, config.data.parts[0].place, cache.folder.name, cache.card)
    if (cache.folder / SHEET).is_file():
        tracker.artifact(cache.folder / SHEET, "data", wait=False)
