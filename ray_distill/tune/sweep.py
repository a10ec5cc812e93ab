"""Run a sweep: Ray Tune runs the trials, MLflow nests them, the best becomes a configuration."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray
from ray import tune
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, SearchAlgorithm, Searcher

from ray_distill import __version__
from ray_distill.config import ConfigError, RunConfig
from ray_distill.config.keys import flatten
from ray_distill.errors import Stopped
from ray_distill.evaluate.compare import teachers
from ray_distill.evaluate.generate import Generator
from ray_distill.evaluate.real import real_features
from ray_distill.jsonl import read_document, write_document
from ray_distill.report.compare import write_comparison
from ray_distill.secrets import mask_tree
from ray_distill.track.client import Status, close_run
from ray_distill.track.sender import RUN
from ray_distill.track.tracker import Tracker
from ray_distill.train.driver import run_lock
from ray_distill.train.driver.check import check
from ray_distill.train.driver.cluster import cluster
from ray_distill.train.driver.console import say
from ray_distill.train.driver.publish import publish_page
from ray_distill.train.driver.signals import watch_signals
from ray_distill.train.driver.validations import read
from ray_distill.train.launch import make_cache
from ray_distill.tune.asha import scheduler
from ray_distill.tune.objective import BEHIND, Objective
from ray_distill.tune.report import Ending, Trial, parallel_plot, table, write_best, write_trials
from ray_distill.tune.slots import DRIVER_CPUS, slots
from ray_distill.tune.space import Range, Sweep, base_point, best_config, trial_config
from ray_distill.tune.trial import FILE, OBJECTIVE, TIME, Plan, run_name, run_trial

SWEEP, LOCK = "sweep.json", ".sweep"
SHARED = "shared"
"""Name that stands for any trial; its folder holds the files that all trials share."""


def sweep(settings: Sweep, base: RunConfig) -> list[Trial]:
    """Search; returns the trials, best first. The same command resumes a sweep that was stopped or killed.

    Raises ConfigError before anything starts, Stopped after an orderly end on a signal, RuntimeError if no trial
    finished.
    """
    check_sweep(settings, base)
    with run_lock.claim(settings.home, LOCK):
        return _sweep(settings, base)


def _sweep(settings: Sweep, base: RunConfig) -> list[Trial]:
    tracker = _tracker(settings, base)
    status: Status = "FAILED"
    try:
        with cluster(log_to_driver=False, dashboard=True), watch_signals() as signals:
            share = slots(ray.cluster_resources(), base.train, settings.concurrent, base.evaluate.gpus)
            say(f"== sweep: {settings.trials} trials, {share.concurrent} at a time")
            _sample_once(settings, base)
            plan = Plan(
                settings.model_dump(mode="json"), base.dump(secrets=True), share.cpus_per_worker, tracker.run_id
            )
            # Tune's own orderly end, which keeps its state; its trials keep their checkpoints.
            signals.request_stop = lambda: signal.raise_signal(signal.SIGUSR1)
            _tuner(settings, base, plan, share.concurrent).fit()
            signals.request_stop = None
            if signals.signum is not None:
                raise Stopped(signals.signum)
        trials = trials_of(settings, base.train.steps)
        _report(settings, base, trials, tracker)
        status = "FINISHED"
        return trials
    except (Stopped, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        _close(settings, base)
        tracker.end(status)


def _sample_once(settings: Sweep, base: RunConfig) -> None:
    """Make the shared files of all trials: the cache, the data's features and, if trials compare with the teacher, its
    samples."""
    config, cache = trial_config(settings, base, {}, SHARED), make_cache(base)
    generator, many = Generator(config, cache), teachers(config).get("teacher_many")
    started = [generator.start(many, config.evaluate.tune_seed)] if settings.compares and many else []
    if config.evaluate.metric is not None:
        real_features(config, cache)
    ray.get(started, timeout=config.train.timeout_s)


def check_sweep(settings: Sweep, base: RunConfig) -> None:
    """Refuse, by ConfigError or ValueError and before a cluster starts, a sweep whose trials would all fail.

    No trial uses the folder of the base's own run, so the check neither reads nor writes there.
    """
    home = settings.home.resolve()
    if home == base.run_dir.resolve() or (home / run_lock.FILE).exists():
        raise ConfigError(f"name = {settings.name}: {settings.home} is the folder of a run; choose another name")
    check(trial_config(settings, base, {}, SHARED))


def trials_of(settings: Sweep, steps: int) -> list[Trial]:
    """Results of the trials, best first, by the files in their folders."""
    trials = []
    for path in sorted((settings.home / "runs").glob(f"*/{FILE}")):
        if not (record := read_document(path, "point", "error")):
            continue  # torn, and named: Tune restarts that trial if it had not ended
        rows = read(path.parent)
        done = bool(rows) and rows[-1]["step"] >= steps
        status: Ending = "failed" if record["error"] else "done" if done else "pruned"
        trials.append(_trial(settings.aim, Trial(path.parent.name, record["point"], rows, status, record["error"])))
    return sorted(trials, key=lambda trial: trial.rank)


def _trial(aim: Objective, trial: Trial) -> Trial:
    """``trial`` with its objective at the last measured step; unchanged if that lacks a number."""
    if not trial.rows or aim.lacks(trial.rows[-1]):
        return trial
    row = trial.rows[-1]
    return replace(trial, objective=aim.value(row), broken=aim.broken(row), score=aim.score(row))


def _tracker(settings: Sweep, base: RunConfig) -> Tracker:
    """Tracker of the sweep's own MLflow run, also noted in ``sweep.json``; ConfigError if another sweep has this
    name."""
    path = settings.home / SWEEP
    now = {"sweep": mask_tree(settings.model_dump(mode="json")), "base": base.dump()}
    then: dict[str, Any] = read_document(path, *now, "run_id") or now | {"run_id": None}
    old, new = (flatten({key: tree[key] for key in now}) for tree in (then, now))
    if changed := sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key)):
        differences = ", ".join(f"{key} was {old.get(key)} and is {new.get(key)}" for key in changed)
        raise ConfigError(
            f"{settings.home} belongs to another sweep: {differences}. Choose another name, or set these keys back"
        )
    tags = {"kind": "sweep", "method": base.method.name, "version": __version__}
    params = flatten(mask_tree(settings.model_dump(mode="json", exclude_none=True)))
    tracker = Tracker.start(
        base.track.uri, base.track.experiment, settings.name, params, tags, then["run_id"], folder=settings.home
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_document(path, now | {"run_id": tracker.run_id})
    return tracker


def _tuner(settings: Sweep, base: RunConfig, plan: Plan, concurrent: int) -> tune.Tuner:
    home = settings.home / "tune"
    trainable = tune.with_resources(tune.with_parameters(run_trial, plan=plan), {"CPU": DRIVER_CPUS})
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # the driver's own handler signals Tune
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the other one prints a frame at any verbosity
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # MLflow and trials.json hold what they would write
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "2")  # seconds of state that a killed sweep may lose
    if tune.Tuner.can_restore(str(home)):
        say(f"   {settings.name} goes on where it was")
        return tune.Tuner.restore(str(home), trainable=trainable, restart_errored=True)
    return tune.Tuner(
        trainable,
        param_space={key: _domain(range_) for key, range_ in settings.space.items()},
        tune_config=tune.TuneConfig(
            metric=OBJECTIVE,
            mode="min",
            num_samples=settings.trials,
            search_alg=search_algorithm(settings, base, concurrent),
            scheduler=scheduler(settings, base.train.steps),
        ),
        run_config=tune.RunConfig(
            name=home.name,
            storage_path=str(home.parent),
            verbose=0,
            callbacks=[TrialLines(settings.trials, settings.aim.label)],
        ),
    )


def search_algorithm(settings: Sweep, base: RunConfig, concurrent: int) -> SearchAlgorithm | Searcher:
    """The search algorithm, which limits trials to ``concurrent`` itself: Tune's ``max_concurrent_trials`` does not
    affect random search."""
    first = [base_point(settings, base)] if settings.try_base else []
    if settings.search == "random":
        return BasicVariantGenerator(first, max_concurrent=concurrent, random_state=settings.seed)
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return ConcurrencyLimiter(OptunaSearch(points_to_evaluate=first, seed=settings.seed), concurrent)


def _domain(range_: Range) -> Any:
    if range_.choice is not None:
        return tune.choice(list(range_.choice))
    return tune.loguniform(*range_.values) if range_.loguniform else tune.uniform(*range_.values)


class TrialLines(tune.Callback):
    """Print a line for each rung and each end of a trial."""

    def __init__(self, trials: int, label: str) -> None:
        self.trials, self.label, self.ended, self.best = trials, label, 0, float("inf")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        if OBJECTIVE in result:
            self.best = min(self.best, result[OBJECTIVE])
            say(
                f"   {run_name(trial.trial_id)}  step {result[TIME]:>6}  {self.label} {_score(result[OBJECTIVE])}  "
                f"best {_score(self.best)}  {self.ended}/{self.trials} trials ended"
            )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.ended += 1

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.ended += 1
        say(f"   {run_name(trial.trial_id)} failed; {FILE} in its folder has the error")


def _score(score: float) -> str:
    return f"{score:7.2f}" if score < BEHIND else "outside the constraints"


def _report(settings: Sweep, base: RunConfig, trials: list[Trial], tracker: Tracker) -> None:
    """Write the table, the plot, the trials as JSON and the best trial as a configuration."""
    home, label = settings.home, settings.aim.label
    write_trials(home / "trials.json", trials)
    say("\n" + table(trials, label))
    best = next((trial for trial in trials if trial.status == "done"), None)
    if best is None:
        raise RuntimeError(f"{home}: no trial ended; {trials[0].error if trials else 'none was started'}")
    if best.broken:
        say(f"   no trial keeps all constraints; {best.name} comes nearest: {'; '.join(best.broken)}")
    parallel_plot(home / "parallel.png", trials, settings.space, label)
    write_best(home / "best.yaml", best_config(settings, base, best.point), best, label)
    tracker.metrics(len(trials), {f"sweep/best_{OBJECTIVE}": best.objective, "sweep/trials": len(trials)})
    for name in ("trials.json", "parallel.png", "best.yaml"):
        tracker.artifact(home / name)
    publish_page(lambda: write_comparison([home]), tracker)


def _close(settings: Sweep, base: RunConfig) -> None:
    """End the MLflow runs of stopped or killed trials, which could not do so themselves."""
    for path in sorted((settings.home / "runs").glob(f"*/{RUN}")):
        if base.track.uri and (run_id := read_document(path, "run_id").get("run_id")):
            close_run(base.track.uri, run_id, "KILLED")
