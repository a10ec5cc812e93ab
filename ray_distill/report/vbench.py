"""Read VBench's results of a run's videos, from the files that its own evaluate.py writes: docs/vbench.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_distill.errors import ConfigError
from ray_distill.evaluate.metrics.ratio import Ratio, by_prompt, paired_difference, paired_ratio
from ray_distill.evaluate.names import COMPARED, PROMPTS, VBENCH
from ray_distill.jsonl import read_document, write_document

STUDENT, TEACHER = "student", "teacher_many"
CUSTOM = (
    "subject_consistency",
    "background_consistency",
    "temporal_flickering",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
    "temporal_style",
    "overall_consistency",
    "human_action",
)
"""Dimensions that VBench computes for prompts that are not its own."""
RATES = ("dynamic_degree", "human_action")
PERCENT = ("imaging_quality",)  # VBench divides its mean by 100, and leaves the videos' values
SENT = f"{VBENCH}/mlflow.json"
LEAST = 0.01  # of the teacher's mean, for a ratio


@dataclass(frozen=True)
class Dimension:
    """VBench's mean of one dimension for student and teacher, and the paired comparison over prompts."""

    name: str
    student: float
    teacher: float | None
    compared: Ratio | None

    @property
    def is_difference(self) -> bool:
        return self.name in RATES


def dimensions(folder: Path) -> list[Dimension]:
    """Dimensions of the newest results in the run's ``folder``; [] without results of the student.

    ConfigError for a file that is not VBench's, and for results of other videos than the run's.
    """
    student, teacher = (_results(folder, sampler) for sampler in (STUDENT, TEACHER))
    values = {
        sampler: _by_file(folder, sampler, results) for sampler, results in ((STUDENT, student), (TEACHER, teacher))
    }
    return [
        Dimension(
            name,
            mean,
            teacher[name][0] if name in teacher else None,
            _compared(name, values[STUDENT].get(name, {}), values[TEACHER].get(name, {})),
        )
        for name, (mean, _) in student.items()
    ]


def new_numbers(folder: Path) -> dict[str, float]:
    """VBench's numbers of the run's ``folder`` by MLflow's names, ``vbench/student/dynamic_degree``, with ratios and
    differences to the teacher; {} if :func:`mark_sent` has noted the same."""
    numbers: dict[str, float] = {}
    for each in dimensions(folder):
        numbers[f"vbench/{STUDENT}/{each.name}"] = each.student
        if each.teacher is not None:
            numbers[f"vbench/{TEACHER}/{each.name}"] = each.teacher
        if each.compared is not None:
            kind = "difference" if each.is_difference else "ratio"
            numbers |= {f"vbench/{kind}/{each.name}{end}": value for end, value in _ends(each.compared)}
    return {} if read_document(folder / SENT).get("numbers") == numbers else numbers


def mark_sent(folder: Path, numbers: Mapping[str, float]) -> None:
    """Note that ``numbers`` are among the run's records for MLflow."""
    write_document(folder / SENT, {"numbers": dict(numbers)})


def _ends(ratio: Ratio) -> Sequence[tuple[str, float]]:
    every = ("", ratio.value), ("_low", ratio.low), ("_high", ratio.high)
    return [(end, value) for end, value in every if math.isfinite(value)]


def _results(folder: Path, sampler: str) -> dict[str, tuple[float, list[Any]]]:
    """{dimension: (mean, rows of videos)} of all results of one sampler; a newer file replaces older dimensions."""
    newest: dict[str, tuple[float, list[Any]]] = {}
    for path in sorted((folder / VBENCH / sampler).glob("*_eval_results.json"), key=lambda path: path.stat().st_mtime):
        for name, value in read_document(path).items():
            if not (isinstance(value, list) and value and _is_number(value[0])):
                raise ConfigError(f"{path}: {name} is not [mean, videos], as VBench writes it; run VBench again")
            rows = value[1] if len(value) > 1 and isinstance(value[1], list) else []
            newest[name] = float(value[0]), rows
    return newest


def _by_file(folder: Path, sampler: str, results: Mapping[str, tuple[float, list[Any]]]) -> dict[str, dict[str, float]]:
    """{dimension: {prompt: value}}; dimensions whose videos have no single number are left out."""
    prompts = read_document(folder / COMPARED / sampler / PROMPTS)
    values: dict[str, dict[str, float]] = {}
    for name, (_, rows) in results.items():
        pairs = [
            (Path(str(row.get("video_path"))).name, row.get("video_results"))
            for row in rows
            if isinstance(row, Mapping)
        ]
        if not pairs or not all(_is_number(value) for _, value in pairs):
            continue
        if other := [file for file, _ in pairs if file not in prompts]:
            raise ConfigError(
                f"{folder / VBENCH / sampler}: {name} has the video {other[0]}, which {folder / COMPARED / sampler} "
                "has not; run VBench on the run's own videos"
            )
        scale = 100 if name in PERCENT else 1
        values[name] = by_prompt(
            [float(value or 0) / scale for _, value in pairs], [prompts[file] for file, _ in pairs]
        )
    return values


def _compared(name: str, student: Mapping[str, float], teacher: Mapping[str, float]) -> Ratio | None:
    """The student's values against the teacher's over equal prompts; None where they have others, or no scale."""
    if not student or student.keys() != teacher.keys():
        return None
    if name in RATES:
        return paired_difference(student, teacher)
    return paired_ratio(student, teacher, LEAST) if sum(teacher.values()) / len(teacher) > LEAST else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
