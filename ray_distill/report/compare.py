"""The page that compares runs, or the trials of a sweep: their numbers, keys that differ, students side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_distill import durable
from ray_distill.errors import ConfigError
from ray_distill.evaluate.names import COMPARED, PAGE, VALIDATION_VIDEOS
from ray_distill.jsonl import read_document
from ray_distill.report import curves
from ray_distill.report.media import Room, data_uri, rows
from ray_distill.report.page import render
from ray_distill.report.run import Run
from ray_distill.report.tables import Table, fixed, interval, number

SWEEP, TRIAL, TRIALS, PARALLEL = "sweep.json", "trial.json", "trials.json", "parallel.png"
SHOWN = 12
"""Runs that have videos and curves: more would be too small to see."""
NUMBERS = ("frechet", "accuracy", "diversity", "motion", "saturation")
RATIOS = ("diversity_ratio", "motion_ratio", "saturation_ratio", "sharpness_ratio", "flicker_ratio")
OWN = ("name", "output_dir")
"""Keys that differ in any two runs."""


@dataclass(frozen=True)
class Entry:
    """A run of a comparison; a trial also has the ``point`` where it searched, and how it ended."""

    run: Run
    point: Mapping[str, Any] = field(default_factory=dict)
    status: str = ""

    @property
    def numbers(self) -> Mapping[str, Any]:
        """The student's numbers: of the evaluation at the end, else of the last validation."""
        last = self.run.validations[-1] if self.run.validations else {}
        return self.run.report.get("student") or last

    def ratio(self, name: str) -> str:
        """A ratio with its interval, or a validation's without one."""
        ratio = (self.run.report.get("ratios") or {}).get(name)
        if ratio is not None:
            return f"{fixed(ratio['value'])} ({interval(ratio)})"
        return "-" if "student" in self.run.report else fixed(self.numbers.get(name))

    @property
    def videos(self) -> Path:
        """The folder of the student's newest videos."""
        last = sorted((self.run.folder / VALIDATION_VIDEOS).glob("step_*"))
        own = self.run.folder / COMPARED / "student"
        return own if own.is_dir() or not last else last[-1]


def write_comparison(folders: Sequence[Path], out: Path | None = None, room: Room | None = None) -> Path:
    """Write one page that compares the runs of ``folders``; a sweep's folder stands for its trials.

    It goes to ``out``; without one to the sweep's folder, or to ``comparison.html`` beside the first run. ConfigError
    where a folder holds no run.
    """
    room = room or Room()
    entries = [entry for folder in folders for entry in entries_of(folder)]
    if not entries:
        raise ConfigError(f"{folders[0]}: the sweep has no trial yet")
    names = _names(entries)
    shown = dict(list(zip(names, entries, strict=True))[:SHOWN])
    parallel = folders[0] / PARALLEL
    strips = [room.strip(title, videos) for title, videos in rows({name: e.videos for name, e in shown.items()})]
    values = {
        "title": " and ".join(folder.absolute().name for folder in folders[:3]) + (" ..." if len(folders) > 3 else ""),
        "count": len(entries),
        "hidden": len(entries) - len(shown),
        "runs": table(names, entries),
        "differences": differences(names, [entry.run for entry in entries]),
        "warnings": [[name, text] for name, entry in zip(names, entries, strict=True) for text in entry.run.warnings],
        "left_out": room.note,
    }
    pictures = {
        "curves": curves.compared({name: entry.run.validations for name, entry in shown.items()}),
        "parallel": data_uri(parallel) if parallel.is_file() else "",
    }
    path = out or (folders[0] / PAGE if len(folders) == 1 else folders[0].absolute().parent / "comparison.html")
    students = [strip for strip in strips if strip is not None]
    durable.write(path, render("compare.html", values, strips={"students": students}, pictures=pictures))
    return path


def is_sweep(folder: Path) -> bool:
    return (folder / SWEEP).is_file()


def entries_of(folder: Path) -> list[Entry]:
    """The run of ``folder``, or the trials of a sweep: best first where it has ended, else by their names."""
    if not is_sweep(folder):
        return [Entry(Run.read(folder))]
    ended = {trial["name"]: trial for trial in _trials(folder / TRIALS)}
    homes = sorted(path.parent for path in (folder / "runs").glob(f"*/{TRIAL}"))
    order = {name: place for place, name in enumerate(ended)}
    entries = []
    for home in sorted(homes, key=lambda home: order.get(home.name, len(order))):
        record = read_document(home / TRIAL, mend=False)
        status = ended.get(home.name, {}).get("status", "failed" if record.get("error") else "")
        entries.append(Entry(Run.of(home), record.get("point", {}), status))
    return entries


def _trials(path: Path) -> list[dict[str, Any]]:
    """The trials of a sweep that has ended; none without such a file. ConfigError for a damaged one."""
    if not path.is_file():
        return []
    try:
        trials = json.loads(path.read_text())
        if not isinstance(trials, list) or not all(isinstance(each, dict) and "name" in each for each in trials):
            raise ValueError("no list of trials with their names")
    except ValueError as error:
        raise ConfigError(
            f"{path}: damaged ({error}); remove it, and the page shows the trials by their names"
        ) from None
    return trials


def _names(entries: Sequence[Entry]) -> list[str]:
    """Names of the runs; their folders where two have one name."""
    names = [entry.run.name for entry in entries]
    return names if len(set(names)) == len(names) else [str(entry.run.folder) for entry in entries]


def table(names: Sequence[str], entries: Sequence[Entry]) -> Table:
    """A row a run; numbers that no run has are no column."""
    numbers = [name for name in NUMBERS if any(entry.numbers.get(name) is not None for entry in entries)]
    ratios = [name for name in RATIOS if any(entry.ratio(name) != "-" for entry in entries)]
    points = list(dict.fromkeys(key for entry in entries for key in entry.point))
    cells = [
        [
            name,
            *(number(v) if isinstance(v := entry.point.get(key), float) else str(v) for key in points),
            f"{entry.run.step} of {entry.run.steps}",
            *(number(entry.numbers.get(key)) for key in numbers),
            *(entry.ratio(key) for key in ratios),
            number(entry.numbers.get("nfe")),
            "; ".join(filter(None, [entry.status, *(entry.run.report.get("missed") or [])])),
        ]
        for name, entry in zip(names, entries, strict=True)
    ]
    heads = ["FD" if name == "frechet" else name for name in numbers]
    return Table(["run", *points, "steps", *heads, *ratios, "nfe", ""], cells)


def differences(names: Sequence[str], runs: Sequence[Run]) -> Table:
    """Keys whose values differ, one a row, with each run's value."""
    keys = list(dict.fromkeys(key for run in runs for key in run.values))
    cells = [
        [key, *(str(run.values.get(key, "-")) for run in runs)]
        for key in keys
        if key not in OWN and len({str(run.values.get(key, "-")) for run in runs}) > 1
    ]
    return Table(["key", *names], cells)
