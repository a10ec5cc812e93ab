"""Export a trained student and publish it to MLflow."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ray_distill import checkpoint
from ray_distill.config import RunConfig
from ray_distill.data.store.cache import Cache
from ray_distill.evaluate.curves import loss_plot
from ray_distill.evaluate.names import COMPARED, PAGE, PLOT, REPORT, TABLES, VALIDATIONS
from ray_distill.evaluate.report import table, write_report
from ray_distill.evaluate.samples import Candidate
from ray_distill.jsonl import read_document, read_rows
from ray_distill.track.names import summary, tables
from ray_distill.track.tracker import Tracker
from ray_distill.train.driver.console import say
from ray_distill.train.driver.fit import rows_of
from ray_distill.train.driver.progress import clock
from ray_distill.train.schedule import total_updates
from ray_distill.types import STUDENT, Role


def report_so_far(run_dir: Path, step: int | None = None) -> dict[str, Any]:
    """The run's report so far; empty where it is of another ``step``."""
    report = read_document(run_dir / REPORT)
    return report if step is None or report.get("steps") == step else {}


def measured_again(config: RunConfig, cache: Cache, last: checkpoint.Checkpoint, report: dict[str, Any]) -> None:
    """Write the run's report with the numbers ``report`` of a later evaluation, of which it keeps what the training
    cost and no older number."""
    before = report_so_far(config.run_dir)
    kept = {key: before[key] for key in ("memory_gib", "wall_seconds", "phases", "published") if key in before}
    write_report(config.run_dir / REPORT, kept | trained(config, cache, last) | report)


def trained(config: RunConfig, cache: Cache, last: checkpoint.Checkpoint) -> dict[str, Any]:
    """Steps, and updates of the student, for the run's report."""
    return {
        "prompt": cache.captions()[0],
        "steps": last.step,
        "student_updates": sum(last.state["roles"].get(role, {}).get("updates", 0) for role in students(config)),
        "planned_student_updates": sum(total_updates(config).get(role, 0) for role in students(config)),
    }


def students(config: RunConfig) -> list[Role]:
    """Trained roles that sampling uses: one student, or two experts."""
    sampled = Candidate(STUDENT, config.method.sampler()).roles
    return [role for role in sampled if config.method.roles[role] == "trained"]


def export_student(config: RunConfig, cache: Cache, last: checkpoint.Checkpoint, report: dict[str, Any]) -> Path:
    """Export the student as a folder for diffusers."""
    from ray_distill.export.student import export  # diffusers takes seconds, and a run begins without it

    return export(config, last.folder, cache.latent_shape, report)


def plot(run_dir: Path, report: dict[str, Any]) -> None:
    """Plot a run's curves and the numbers of its samplers beside its report."""
    if rows := rows_of(run_dir):
        loss_plot(run_dir / PLOT, rows, [*read_rows(run_dir / VALIDATIONS, "step")], report)


def publish(config: RunConfig, tracker: Tracker, report: dict[str, Any], folder: Path) -> None:
    """Write the report to its file, the screen and, slowly, MLflow; register the student there."""
    out = config.run_dir
    write_report(out / REPORT, report)
    say(f"\n{table(report)}")
    phases = ", ".join(f"{name} {seconds} s" for name, seconds in report["phases"].items())
    say(f"\n{clock(report['wall_seconds'])} in all: {phases}")
    step = int(report["steps"])
    tracker.metrics(step, summary(report))
    tracker.note(note(config, report))
    for name, rows in tables(report).items():
        write_report(out / TABLES / f"{name}.json", rows)
        tracker.table(out / TABLES / f"{name}.json", TABLES)
    tracker.artifact(out / REPORT)
    if config.evaluate.enabled:
        tracker.videos(out / COMPARED, step)
        tracker.picture(out / "contact_sheet.png", step)
    # MLflow keeps the alias "latest" for itself.
    name = config.track.register_as or config.name
    tracker.register(folder, name, alias="newest", description=description(config, report))


def description(config: RunConfig, report: dict[str, Any]) -> str:
    """Description of the registered model in MLflow: its making, its steps and the report's table."""
    return "\n".join(
        [
            f"A {config.model.family} student of `{config.model.path.name}` by {config.method.name}: "
            f"{config.method.describe()}",
            "",
            "```",
            table(report),
            "```",
            "",
            "README.md in its folder says how diffusers samples it; `sample.py` there does.",
        ]
    )


def note(config: RunConfig, report: dict[str, Any]) -> str:
    """Description of the run in MLflow: missed goals and the report's table."""
    has_goals = bool(config.evaluate.goals.names)
    missed = [f"- The student misses a goal: {goal}" for goal in report.get("missed", [])]
    lines = missed or (["The student meets its goals."] if has_goals and config.evaluate.enabled else [])
    return "\n".join(
        [*lines, "", "```", table(report), "```", "", f"The artifact {PAGE} shows the whole run on one page."]
    )


def publish_plot(plotted: Future[None], run_dir: Path, tracker: Tracker) -> None:
    """Wait for the plot, and have MLflow take it. A failure is a line: the run is worth more than its plot."""
    try:
        plotted.result()
    except Exception as error:  # a full disk, or numbers that the plot did not expect
        say(f"   {PLOT} was not written ({type(error).__name__}: {error})")
        return
    if (run_dir / PLOT).is_file():
        tracker.artifact(run_dir / PLOT)


def publish_page(write: Callable[[], Path], tracker: Tracker) -> None:
    """Write a page, and have MLflow take it. A failure is a line: the run is worth more than its page, and
    ``ray-distill report`` writes it again."""
    try:
        page = write()
    except Exception as error:  # a full disk, or a run that the page did not expect
        say(f"   the page was not written ({type(error).__name__}: {error}); ray-distill report can write it later")
        return
    tracker.artifact(page, wait=False)
