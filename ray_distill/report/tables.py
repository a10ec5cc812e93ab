"""Tables of a page: samplers, the student against its teacher, and the plan against what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ray_distill.config.measures import LEAST, MEASURE_OF, RATED, ratio_name
from ray_distill.evaluate.report import ROWS
from ray_distill.report.run import Run
from ray_distill.report.vbench import CUSTOM, Dimension

HEADINGS = {"frechet": "FD", "seconds_per_video": "s / video"}
NUMBERS = ("frechet", "accuracy", *sorted(RATED, key="diversity".__ne__), "nfe", "seconds_per_video")
GIB, GB, TERA = 2**30, 10**9, 10**12


@dataclass(frozen=True)
class Table:
    """Cells as text, below their ``head``; empty where it has no ``rows``."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def number(value: Any, digits: int = 3) -> str:
    """A number with ``digits`` significant digits, an integer with all of them; "-" for what is no finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return "-"
    if isinstance(value, int) or value == 0 or round(abs(value)) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def samplers(report: Mapping[str, Any]) -> Table:
    """The numbers of an evaluation, one a row with a column for each sampler; those that no sampler has are left
    out."""
    columns = {label: report[key] for key, label in ROWS.items() if report.get(key)}
    names = [name for name in NUMBERS if any(column.get(name) is not None for column in columns.values())]
    rows = [[HEADINGS.get(name, name), *(_with_spread(column, name) for column in columns.values())] for name in names]
    return Table(["", *columns], rows)


def _with_spread(column: Mapping[str, Any], name: str) -> str:
    spread = column.get("frechet_spread") if name == "frechet" else None
    return number(column.get(name)) + ("" if spread is None else f" ± {number(spread, 2)}")


def against_teacher(report: Mapping[str, Any]) -> Table:
    """Ratios and differences of the student to the many-step teacher with 95 % intervals, beside those of two sampling
    seeds of the teacher, and a verdict in words."""
    chance = report.get("teacher_seeds") or {}
    rows = [
        [
            MEASURE_OF.get(name, name),
            "difference" if is_difference(name) else "ratio",
            fixed(ratio["value"]),
            interval(ratio),
            interval(chance[name]) if name in chance else "-",
            verdict(ratio, 0.0 if is_difference(name) else 1.0),
        ]
        for name, ratio in (report.get("ratios") or {}).items()
    ]
    floors = report.get("teacher_distances") or {}
    rows += [_distance(name, row, floors.get(name)) for name, row in (report.get("distances") or {}).items()]
    return Table(["measure", "", "student to teacher", "95 % interval", "teacher to itself", "says"], rows)


def _distance(name: str, row: Mapping[str, Any], floor: Mapping[str, Any] | None) -> list[str]:
    """A distance of two sets of videos, beside that of two sampling seeds of the teacher."""
    has_interval = row.get("low") is not None
    says = "unknown"
    if has_interval and floor is not None:
        says = "farther than chance" if row["low"] > floor["value"] else "no farther than chance"
    between = f"{number(row['low'])} to {number(row['high'])}" if has_interval else "-"
    kind = f"distance of {row['videos']} videos"
    return [name, kind, number(row["value"]), between, number(floor["value"]) if floor else "-", says]


def no_ratio(report: Mapping[str, Any]) -> list[str]:
    """Sentences on measures without a ratio: the teacher has next to nothing of them, so the student cannot be
    judged by them."""
    teacher = report.get("teacher_many") or {}
    return [
        f"{name}: the teacher's value is almost 0 ({number(teacher[name])}), so a ratio means nothing"
        for name in RATED
        if report.get("ratios")
        and teacher.get(name) is not None
        and not {name, ratio_name(name)} & report["ratios"].keys()
        and teacher[name] <= (LEAST.get(name, 0.0) or 0.0)
    ]


def is_difference(name: str) -> bool:
    return name.endswith("_difference")


def fixed(value: float | None) -> str:
    """A ratio or a difference, to three digits behind its point."""
    return "-" if value is None else f"{value:.3f}"


def interval(ratio: Mapping[str, Any]) -> str:
    return f"{fixed(ratio['low'])} to {fixed(ratio['high'])}"


def verdict(ratio: Mapping[str, Any], equal: float) -> str:
    """The interval in words: whether it holds ``equal``."""
    if ratio["low"] is None or ratio["high"] is None:
        return "unknown"
    if ratio["low"] <= equal <= ratio["high"]:
        return "no difference seen"
    return "more than the teacher" if ratio["low"] > equal else "less than the teacher"


def vbench(dimensions: Sequence[Dimension]) -> Table:
    """VBench's dimensions of student and teacher, and the student's ratio or difference with its 95 % interval; the
    last row names the dimensions that nobody has run."""
    rows = []
    for each in dimensions:
        ratio = asdict(each.compared) if each.compared else None
        kind = "difference" if each.is_difference else "ratio"
        cells = (
            [fixed(ratio["value"]), interval(ratio), verdict(ratio, 1.0 - each.is_difference)] if ratio else ["-"] * 3
        )
        rows.append([each.name, number(each.student, 4), number(each.teacher, 4), kind if ratio else "", *cells])
    not_run = sorted(set(CUSTOM) - {each.name for each in dimensions})
    if rows and not_run:
        rows.append(["not run", *["-"] * 5, ", ".join(not_run)])
    return Table(["dimension", "student", "teacher", "", "student to teacher", "95 % interval", "says"], rows)


def watched(run: Run) -> Table:
    """The numbers that health is judged by, each beside the threshold of its warning; the last validation's ratios of
    motion and saturation have none but the goals'."""
    rows = [
        [level.name, number(level.value), f"above {number(level.threshold)} {level.when}".rstrip(), str(level.step)]
        for level in run.watched
    ]
    last = run.validations[-1] if run.validations else {}
    for name in ("motion_ratio", "saturation_ratio"):
        if last.get(name) is not None:
            bounds = [
                f"{word} {run.value(key)}"
                for word, key in (
                    ("below", f"evaluate.goals.within.{name}.at_least"),
                    ("above", f"evaluate.goals.within.{name}.at_most"),
                )
                if run.value(key) is not None
            ]
            goal = f"{' or '.join(bounds)} (a goal)" if bounds else "no goal is set"
            rows.append(
                [f"{name.replace('_ratio', '')}, student to teacher", fixed(last[name]), goal, str(last["step"])]
            )
    return Table(["watched", "now", "warned", "at step"], rows)


def planned(run: Run) -> Table:
    """The plan's figures beside the run's own; without a plan only what was measured."""
    plan, report, gpu = run.newest("plan"), run.report, bool(run.value("train.use_gpu"))
    saved = size(run)
    memory = report.get("memory_gib")
    measured = [
        [
            "memory of a worker, GiB",
            number(plan["memory"] / GIB) if "memory" in plan else "-",
            number(memory),
            plan.get("moment", "")
            if gpu
            else "on a CPU the measured memory includes the libraries, which no plan counts",
        ],
        ["a checkpoint, GB", number(plan["checkpoint"] / GB) if plan.get("checkpoint") else "-", number(saved), ""],
        ["student updates", number(report.get("planned_student_updates")), number(report.get("student_updates")), ""],
    ]
    seconds = seconds_a_step(run)
    flops = plan.get("flops")
    measured.append(
        [
            "seconds a step",
            "-",
            number(seconds),
            f"{number(flops / TERA)} TFLOP of a worker in a step, so {number(flops / TERA / seconds)} TFLOP/s"
            if flops and seconds
            else "",
        ]
    )
    return Table(["", "planned", "measured", ""], [row for row in measured if set(row[1:3]) != {"-"}])


def size(run: Run) -> float | None:
    """The newest checkpoint on disk, in GB."""
    return sum(path.stat().st_size for path in run.last.folder.iterdir()) / GB if run.last else None


def seconds_a_step(run: Run) -> float | None:
    """Mean over the steps of the last start, its saves and validations included; None where it trained none to their
    end."""
    seconds = (run.report.get("phases") or {}).get("train")
    steps = int(run.report.get("steps") or 0) - int(run.newest("start").get("step") or 0)
    return seconds / steps if seconds and steps > 0 and run.journal else None


def phases(report: Mapping[str, Any]) -> Table:
    """Seconds by phase of the last start."""
    rows = [[name, number(seconds)] for name, seconds in (report.get("phases") or {}).items()]
    if report.get("wall_seconds") is not None:
        rows.append(["in all", number(report["wall_seconds"])])
    return Table(["phase", "seconds"], rows)


def data_card(run: Run) -> Table:
    """Counts of the run's data, and reasons for the clips that were left out."""
    card = run.newest("data")
    names = {
        "clips": "clips that were kept",
        "skipped": "clips that were left out",
        "captions": "captions",
        "captions_cut": "captions that were cut",
        "streamed": "encoded beside the training",
    }
    rows = [[label, str(card[name])] for name, label in names.items() if name in card]
    rows += [[f"clips of {shape} (C x t x h x w)", str(count)] for shape, count in (card.get("buckets") or {}).items()]
    rows += [[f"left out: {reason}", str(count)] for reason, count in (card.get("reasons") or {}).items()]
    rows += [
        [f"rows of {part.get('name')}", f"{part.get('rows')}, {part.get('passes')} passes, from {part.get('place')}"]
        for part in card.get("datasets") or ()
    ]
    return Table(["data", ""], rows)
