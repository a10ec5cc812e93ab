"""Contact sheet, table and JSON of an evaluation, and its missed goals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ray_distill import sheets
from ray_distill.columns import table as text_table
from ray_distill.config.evaluate import Goals
from ray_distill.config.measures import MEASURE_OF
from ray_distill.jsonl import write_document

ROWS = {
    "teacher_many": "teacher, many steps",
    "teacher_same_nfe": "teacher, as many evaluations as the student",
    "teacher_same_steps_guided": "teacher, as many steps as the student, guided",
    "student_before": "student before distillation",
    "student": "student",
}
"""The samplers of a report, in the order of its table."""

SHOWN = {
    "frechet": "FD",
    "frechet_spread": "spread of FD",
    "accuracy": "accuracy",
    "diversity": "diversity",
    "motion": "motion",
    "saturation": "saturation",
    "nfe": "nfe",
    "seconds_per_video": "seconds per video",
}
"""The numbers of a sampler's line, in words."""

SEEN, COST = ("motion", "saturation"), ("nfe", "s/video")
"""Columns of the table where no metric knows the data, and of what a video costs."""

HEADINGS = {
    "teacher_many": "teacher",
    "teacher_same_nfe": "teacher",
    "teacher_same_steps_guided": "teacher, guided",
    "student_before": "before distillation",
    "student": "student",
}
"""Headings of a contact sheet's columns, short enough for three small frames."""


def heading(name: str, nfe: int) -> str:
    """The heading of a sampler's column, with its network evaluations per video."""
    return f"{HEADINGS[name]}, {nfe} evaluation{'s' if nfe != 1 else ''}"


def measured_heading(name: str, row: Mapping[str, Any]) -> str:
    """The heading of a sampler, and below it its distance and accuracy where they were measured."""
    numbers = [
        f"{word} {row[key]:{form}}"
        for key, word, form in (("frechet", "FD", ".1f"), ("accuracy", "accuracy", ".3f"))
        if row.get(key) is not None
    ]
    return "\n".join(filter(None, (heading(name, row["nfe"]), ", ".join(numbers))))


def line(name: str, row: Mapping[str, Any]) -> str:
    """A sampler's main numbers as one line of text, without those that were not measured; report.json has all."""
    numbers = [f"{word} {row[key]:.4g}" for key, word in SHOWN.items() if row.get(key) is not None]
    return f"   {ROWS[name]}: {', '.join(numbers)}"


def contact_sheet(path: Path, columns: Mapping[str, np.ndarray], prompts: Sequence[str]) -> None:
    """Write a PNG: one row per prompt, one column per sampler, each with the first, the middle and the last frame.

    ``columns`` maps a heading to uint8 videos [N, T, H, W, 3]; video n of every column was made for ``prompts[n]``.
    ValueError if a column's number of videos differs from that of prompts, or if its layout differs.
    """
    for name, videos in columns.items():
        if videos.dtype != np.uint8 or videos.ndim != 5 or videos.shape[-1] != 3 or len(videos) != len(prompts):
            raise ValueError(
                f"columns[{name!r}]: need uint8 [{len(prompts)}, T, H, W, 3] for {len(prompts)} prompts, "
                f"got {videos.dtype} {list(videos.shape)}"
            )
    if not columns or not prompts:
        raise ValueError("a contact sheet needs at least one column and one prompt")
    rows = [(prompt, [videos[n] for videos in columns.values()]) for n, prompt in enumerate(prompts)]
    sheets.contact_sheet(path, rows, list(columns))


def table(report: Mapping[str, Any]) -> str:
    """The report's samplers as aligned text: sampler, FD (+- spread over seeds), accuracy, diversity, nfe, s/video.

    None is printed as ``-``. Where no metric knows the data, motion and saturation stand in the place of the three; a
    report without samplers keeps the last line only.
    """
    rows = [(label, report[key]) for key, label in ROWS.items() if report.get(key) is not None]
    if not rows:
        return _footer(report)
    named = {"accuracy": ".3f", "diversity": ".2f"}
    if all(row.get(name) is None for _, row in rows for name in ("frechet", *named)):
        seen = [(label, *(_number(row.get(name), ".3f") for name in SEEN), *_cost(row)) for label, row in rows]
        return f"{text_table(('sampler', *SEEN, *COST), seen)}\n{_footer(report)}".rstrip()
    spreads = ["" if row.get("frechet_spread") is None else f" +- {row['frechet_spread']:.1f}" for _, row in rows]
    room = max(map(len, spreads), default=0)  # a missing spread keeps its width, so decimal points align
    lines: list[tuple[str, ...]] = []
    for (label, row), spread in zip(rows, spreads, strict=True):
        distance = _number(row.get("frechet"), ".1f") + f"{spread:{room}}"
        lines.append((label, distance, *(_number(row.get(name), form) for name, form in named.items()), *_cost(row)))
    head = ("sampler", f"FD{'':{room}}", *named, *COST)
    return f"{text_table(head, lines)}\n{_footer(report)}".rstrip()


def _cost(row: Mapping[str, Any]) -> tuple[str, str]:
    return _number(row.get("nfe"), "g"), _number(row.get("seconds_per_video"), ".3f")


def misses(report: Mapping[str, Any], goals: Goals) -> list[str]:
    """Goals that the student missed, in words; empty if it reached all."""
    student, lines = report["student"], []
    if goals.frechet_ratio is not None:
        ratio = student["frechet"] / report["teacher_many"]["frechet"]
        if ratio > goals.frechet_ratio:
            lines.append(
                f"its Fréchet distance is {ratio:.2f} times teacher_many's; the goal is at most {goals.frechet_ratio}"
            )
    if goals.frechet_margin is not None:
        margin = report["teacher_same_steps_guided"]["frechet"] - student["frechet"]
        if margin < goals.frechet_margin:
            lines.append(
                f"its Fréchet distance is {margin:.1f} below teacher_same_steps_guided's; the goal is at least "
                f"{goals.frechet_margin}"
            )
    if goals.accuracy is not None and student["accuracy"] < goals.accuracy:
        lines.append(f"its accuracy is {student['accuracy']:.3f}; the goal is at least {goals.accuracy}")
    for name, bounds in goals.within.items():
        ratio = report["ratios"].get(name)
        if ratio is None:
            measured = (report.get("teacher_many") or {}).get(MEASURE_OF[name]) is not None
            why = "almost 0" if measured else "not measured"
            lines.append(f"its {name} is unknown, since the teacher's {MEASURE_OF[name]} is {why}")
        elif bounds.excess(ratio["value"]) > 0:
            lines.append(f"its {name} is {ratio['value']:.3f}; the goal is {bounds}")
    return lines


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or not math.isfinite(value) else format(value, form)


def _footer(report: Mapping[str, Any]) -> str:
    seeds = report.get("seeds")
    count = len(seeds) if isinstance(seeds, Sequence) and not isinstance(seeds, str) else seeds
    parts = [
        f"{report[key]:g} {words}"
        for key, words in (
            ("student_updates", "student updates"),
            ("steps", "steps"),
            ("wall_seconds", "s in all"),
            ("memory_gib", "GiB a worker"),
        )
        if report.get(key) is not None
    ]
    if count is not None:
        parts.append(f"{count} sampling seed{'s' if count != 1 else ''}")
    return ", ".join(parts)


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write ``report`` as JSON; non-finite numbers become null, so that every JSON reader takes the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_document(path, _plain(report))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
