"""ray-distill VERB CONFIG [key=value ...]"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ray_distill.arguments import ANSWERS, parse
from ray_distill.collector import at_rest, leave_at_once
from ray_distill.errors import ConfigError, Stopped, mistakes
from ray_distill.secrets import MaskedFormatter, mask, mask_threads, masked_traceback, show
from ray_distill.terminal import AboveBars, patient

if TYPE_CHECKING:
    from ray_distill.config import Loaded

PLAN_KEYS = ("cluster", "price", "mfu")
BRIEF = ("check", "plan", "import")
"""Verbs that mostly import, and run with the collector at rest."""


def load(path: Path, overrides: Sequence[str]) -> Loaded:
    """The configuration of a run. Each verb imports torch for itself, so that help and wrong flags need no torch."""
    with at_rest():
        from ray_distill.importers import load_run

    return load_run(path, overrides)


def init(args: argparse.Namespace) -> None:
    from ray_distill.init.start import init

    flags = {name: getattr(args, name) for name in ANSWERS}
    show(init(args.output, flags, input if sys.stdin.isatty() else None))


def check_machine(args: argparse.Namespace) -> int:
    from ray_distill.machine.report import report

    text, whole = report((lambda: load(args.config, args.overrides).config) if args.config else None)
    show(text)
    return 0 if whole else 1


def check_config(args: argparse.Namespace) -> int | None:
    if args.machine:
        return check_machine(args)
    from ray_distill.config.explain import explain, table

    loaded = load(args.config, args.overrides)
    if args.explain:
        print(explain(loaded, args.explain))
        return None
    print(table(loaded) if args.all else loaded.table())
    if loaded.report:
        show("\n  ".join([f"\n{args.config}, key by key:", *loaded.report]))
    from ray_distill.train.driver.check import check, check_ahead, warnings

    check((loaded.before or loaded).config)
    if loaded.before:
        check_ahead(loaded.config)
    print(f"\n{loaded.config.method.name}: {loaded.config.method.describe()}")
    for message in [*loaded.warnings, *warnings(loaded.config)]:
        show(f"warning: {message}")
    print(f"\n{args.config}: ready to train")
    return None


def import_(args: argparse.Namespace) -> None:
    from ray_distill.config.load import write_yaml
    from ray_distill.importers import check_tool
    from ray_distill.init.start import check_out

    check_tool(args.tool, args.config)
    loaded = load(args.config, args.overrides)
    files = {args.output: loaded}
    if loaded.before:
        files = {args.output.with_suffix(".semantic.yaml"): loaded.before, **files}
    for path in files:
        check_out(path)
    for path, content in files.items():
        write_yaml(path, content, str(args.config))
    show(*loaded.report)
    from ray_distill.train.driver.check import warnings

    for message in [*loaded.warnings, *warnings(loaded.config)]:
        show(f"warning: {message}")
    print("\nNext:", *(f"ray-distill train {shlex.quote(str(path))}" for path in files), sep="\n  ")


def plan(args: argparse.Namespace) -> int:
    from ray_distill.models.pipeline import INDEX
    from ray_distill.plan import plan
    from ray_distill.train.driver.checks.experts import check_experts, check_flavour
    from ray_distill.train.driver.checks.networks import check_latents

    # A cluster, its price and use are no part of a run's configuration.
    options = {k: v for k, _, v in (item.partition("=") for item in args.overrides) if k in PLAN_KEYS}
    loaded = load(args.config, [item for item in args.overrides if item.partition("=")[0] not in PLAN_KEYS])
    # A second run starts from a student that does not exist yet; the first run's networks have the same size.
    config = (loaded.before or loaded).config
    with mistakes():
        check_flavour(config)
        if (config.model.path / INDEX).is_file():
            check_experts(config)
        if (config.model.path / "transformer").is_dir():  # else plan reads the architecture of the published pipeline
            check_latents(config)
        text, fits = plan(config, options)
    print(text)
    return 0 if fits else 1


def prepare(args: argparse.Namespace) -> None:
    loaded = load(args.config, args.overrides)
    from ray_distill.endings import of_preparation
    from ray_distill.train.launch import prepare_alone

    cache = prepare_alone(loaded.config)
    show(of_preparation(cache.folder, cache.card, args))


def preflight(args: argparse.Namespace) -> int:
    loaded = load(args.config, args.overrides)
    from ray_distill.train.looks import FOLDER
    from ray_distill.train.preflight import preflight

    config = (loaded.before or loaded).config  # what the second starts from is not there yet
    seen = preflight(config)
    show(*seen.lines, *(f"warning: {text}" for text in seen.warnings), f"\npictures  {config.run_dir / FOLDER}")
    for text in seen.errors:
        print(f"ray-distill preflight: {mask(text)}", file=sys.stderr)
    return 1 if seen.errors else 0


def train(args: argparse.Namespace) -> int:
    loaded = load(args.config, args.overrides)
    with at_rest():
        from ray_distill.endings import of_training
        from ray_distill.train.driver.check import check_ahead
        from ray_distill.train.launch import launch

    for message in loaded.warnings:
        print(f"warning: {mask(message)}", file=sys.stderr)
    if loaded.before:
        check_ahead(loaded.config)
        launch(loaded.before.config, source=loaded.before.source)
    report = launch(loaded.config, source=loaded.source)
    show(of_training(loaded.config, args, report["prompt"]))
    for goal in report.get("missed", []):
        print(f"The student misses a goal: {goal}", file=sys.stderr)
    return 1 if report.get("missed") else 0


def evaluate(args: argparse.Namespace) -> None:
    loaded = load(args.config, args.overrides)
    from ray_distill.evaluate.compare import evaluate
    from ray_distill.evaluate.report import table
    from ray_distill.report.page import write_page
    from ray_distill.train.driver.check import check_measuring
    from ray_distill.train.driver.cluster import cluster
    from ray_distill.train.driver.fit import newest
    from ray_distill.train.driver.publish import measured_again
    from ray_distill.train.launch import cache_of

    check_measuring(loaded.config)
    last = newest(loaded.config)
    with cluster():
        cache = cache_of(loaded.config)
        report = evaluate(loaded.config, cache, last.folder, loaded.config.run_dir)
    measured_again(loaded.config, cache, last, report)
    print(f"{table(report)}\npage  {write_page(loaded.config.run_dir)}")


def report(args: argparse.Namespace) -> None:
    from ray_distill.report.compare import is_sweep, write_comparison
    from ray_distill.report.media import MIB, Room
    from ray_distill.report.page import write_page

    runs = [*args.runs, *map(Path, args.overrides)]  # argparse puts there what stands behind a flag
    for folder in runs:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder; a run's is output_dir/name, such as output/quickstart")
    runs = list({folder.resolve(): folder for folder in runs}.values())
    if args.out is not None and (args.out.is_dir() or args.out.suffix.lower() not in (".html", ".htm")):
        file = args.out / "page.html" if args.out.is_dir() else args.out.with_suffix(".html")
        raise ConfigError(f"-o {args.out}: a page is an html file, such as {file}")
    room = Room(int(args.limit * MIB))
    if len(runs) == 1 and not is_sweep(runs[0]):
        print(write_page(runs[0], room, args.out))
    else:
        print(write_comparison(runs, args.out, room))


def export(args: argparse.Namespace) -> None:
    loaded = load(args.config, args.overrides)
    from ray_distill.endings import files_of
    from ray_distill.export.student import export
    from ray_distill.export.verify import verify
    from ray_distill.train.driver.check import check_exporting
    from ray_distill.train.driver.fit import newest
    from ray_distill.train.driver.publish import report_so_far

    check_exporting(loaded.config)
    data, last = loaded.config.data, newest(loaded.config)
    shape = loaded.config.model.pipeline.latent_shape(data.frames, data.height, data.width)
    folder = export(loaded.config, last.folder, shape, report_so_far(loaded.config.run_dir, last.step))
    print(f"{folder}: step {last.step}; diffusers alone gives our latents to {verify(folder, 'a test'):.1e}")
    print(files_of(folder))


def sample(args: argparse.Namespace) -> None:
    loaded = load(args.config, args.overrides)
    from ray_distill.evaluate.sample import clips_of, sample_videos
    from ray_distill.train.driver.check import check_sampling
    from ray_distill.train.driver.fit import newest

    check_sampling(loaded.config)
    prompts = list(args.prompt)
    if args.prompts is not None:
        if not args.prompts.is_file():
            raise ConfigError(f"--prompts {args.prompts}: no such file; it has a prompt on each line")
        from ray_distill.data.prepare.listing import named_prompts

        with mistakes():
            prompts += named_prompts(args.prompts).values()
    clips = clips_of(prompts, args.seed or [0], args.out)
    last = newest(loaded.config, as_trained=False)  # other steps, or another window, may be what is tried
    for path in sample_videos(loaded.config, last.folder, clips, args.image, args.frames):
        print(path, flush=True)


def tune(args: argparse.Namespace) -> None:
    from ray_distill.evaluate.names import PAGE
    from ray_distill.tune.space import load_sweep
    from ray_distill.tune.sweep import sweep

    settings, base = load_sweep(args.config, args.overrides)
    best, *_ = sweep(settings, base.config)
    home = settings.home
    print(
        f"\n{best.name} is best: {home / 'best.yaml'}\ntrials    {home / 'trials.json'}, {home / 'parallel.png'}\n"
        f"page      {home / PAGE}\n"
        f"\nNext:\n  ray-distill train {home / 'best.yaml'}"
    )


def track(args: argparse.Namespace) -> int:
    """``track sync RUN``: send MLflow the calls that it missed and VBench's new numbers, from the run's folder."""
    from ray_distill.config.load import ENVIRONMENT
    from ray_distill.report.vbench import mark_sent, new_numbers
    from ray_distill.track.sync import sync
    from ray_distill.train.driver.checks.store import check_store
    from ray_distill.train.driver.publish import report_so_far
    from ray_distill.train.driver.run_lock import claim

    folder: Path = args.config
    if any(not item.startswith("track.uri=") for item in args.overrides):
        raise ConfigError("write: ray-distill track sync RUN [track.uri=...], where RUN is a folder: output/quickstart")
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; a run's is output_dir/name, such as output/quickstart")
    uri = args.overrides[-1].partition("=")[2] if args.overrides else os.environ.get(f"{ENVIRONMENT}TRACK__URI")
    check_store(uri or "")
    with claim(folder):
        numbers = new_numbers(folder)
        sent, left = sync(folder.absolute(), uri, numbers, int(report_so_far(folder).get("steps") or 0))
        if numbers:
            mark_sent(folder, numbers)
    print(f"{folder}: {sent} calls were sent to MLflow, {left} wait")
    return 1 if left else 0


VERBS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "init": init,
    "check": check_config,
    "plan": plan,
    "preflight": preflight,
    "prepare": prepare,
    "train": train,
    "tune": tune,
    "evaluate": evaluate,
    "export": export,
    "report": report,
    "sample": sample,
    "import": import_,
    "track": track,
}


def plainly(error: OSError) -> str:
    """One line with the path; for an error that Ray wraps, the line of its cause."""
    error = cause if isinstance(cause := getattr(error, "cause", None), OSError) else error
    paths = [str(path) for path in (error.filename, error.filename2) if path is not None]
    if not paths or error.strerror is None:
        return " ".join(str(error).split()) or type(error).__name__
    return f"{' -> '.join(paths)}: {error.strerror}"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 1 a goal was missed, a plan does not fit, MLflow is still away, the system refuses a file,
    or the traceback of an error was printed, 2 the configuration is wrong, 128 + signal after an orderly stop."""
    leave_at_once()
    with patient():
        return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    args = parse(argv)
    handler = logging.StreamHandler(AboveBars())
    handler.setFormatter(MaskedFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    mask_threads()
    logging.getLogger("ray_distill").setLevel(logging.INFO)  # Ray raises the root's level, against its own lines
    for noisy in ("httpx", "py4j", "alembic", "mlflow"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        with at_rest() if args.verb in BRIEF else nullcontext():
            return VERBS[args.verb](args) or 0
    except ConfigError as error:
        print(f"ray-distill {args.verb}: {mask(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"ray-distill {args.verb}: {mask(plainly(error))}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print(f"ray-distill {args.verb}: {stopped}", file=sys.stderr)
        return 128 + stopped.signum
    except Exception as error:  # printed here with secrets masked: Python and Ray would print them
        print(masked_traceback(error), file=sys.stderr)
        return 1
