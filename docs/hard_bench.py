"""The table of docs/hard_bench.md: students of two digits, three training seeds each.

    python docs/hard_bench.py [key=value ...] [--seeds 0 1 2] [--only dmd_3 ...]

Runs `ray-distill train configs/two_digits.yaml` for each row and seed that has no report yet, so that it goes on where
it stood, and prints each row when its seeds are done. The last rows are bad on purpose: what a metric is worth shows
where a student collapses.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from students import LORA, train

CONFIG, OUT = "configs/two_digits.yaml", "output/hard_bench"
STUDENTS: dict[str, tuple[str, list[str]]] = {
    "dmd_1": (CONFIG, ["method.timesteps=[1000]"]),
    "dmd_2": (CONFIG, ["method.timesteps=[1000, 750]"]),
    "dmd_3": (CONFIG, []),
    "dmd_4": (CONFIG, ["method.timesteps=[1000, 900, 750, 500]"]),
    "dmd_3_lora": (CONFIG, LORA),
    "bad_guidance": (CONFIG, ["method.teacher_guidance=6"]),
    "bad_fake_score": (CONFIG, ["roles.fake_score.optimizer.learning_rate=2.0e-5"]),
}
RATIOS = ("motion", "saturation", "diversity")
HEAD = (
    "| sampler | evaluations | FD | over the teacher's | each seed | accuracy | motion | saturation | diversity | s |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def teacher_row(report: Mapping[str, Any]) -> str:
    """The many-step teacher, whose own values stand where students have ratios."""
    teacher = report["teacher_many"]
    own = " | ".join(f"{teacher[name]:.3f}" for name in RATIOS)
    return f"| teacher | {teacher['nfe']} | {teacher['frechet']:.1f} | 1 | | {teacher['accuracy']:.3f} | {own} | |"


def row(label: str, reports: Sequence[Mapping[str, Any]]) -> str:
    """One student over its training seeds; motion, saturation and diversity are over the teacher's."""
    students = [report["student"] for report in reports]
    distances = [report["student"]["frechet"] / report["teacher_many"]["frechet"] for report in reports]
    spread = f" ± {stdev(distances):.2f}" if len(distances) > 1 else ""
    each = ", ".join(f"{distance:.2f}" for distance in distances)
    ratios = " | ".join(over(name, reports) for name in RATIOS)
    return (
        f"| `{label}` | {students[0]['nfe']} | {mean(s['frechet'] for s in students):.1f} | "
        f"{mean(distances):.2f}{spread} | {each} | {mean(s['accuracy'] for s in students):.3f} | {ratios} | "
        f"{mean(report['phases']['train'] for report in reports):.0f} |"
    )


def over(name: str, reports: Sequence[Mapping[str, Any]]) -> str:
    """The mean over training seeds of a ratio, and the widest of the intervals; ``-`` where the teacher has nothing."""
    ratios = [report["ratios"][key] for report in reports if (key := f"{name}_ratio") in report["ratios"]]
    if not ratios:
        return "-"
    value, low, high = mean(r["value"] for r in ratios), min(r["low"] for r in ratios), max(r["high"] for r in ratios)
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args()
    for number, name in enumerate(args.only):
        reports = [train(name, seed, args.overrides, STUDENTS, OUT) for seed in args.seeds]
        if number == 0:
            print(f"{HEAD}\n{teacher_row(reports[0])}")
        print(row(name, reports), flush=True)


if __name__ == "__main__":
    main()
