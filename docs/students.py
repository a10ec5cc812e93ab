"""Make the table of docs/students.md: every student, three training seeds each.

    python docs/students.py [key=value ...] [--seeds 1 2 3] [--only dmd_3 ...]

It runs `ray-distill train` for each student without a report, so it resumes after an interruption, and prints the
table. It takes an hour and a half on two CPU cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).parents[1]
OUT = "output/students"
DMD = "configs/quickstart.yaml"
LAYERS = (
    *("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2", "proj_out", "time_proj"),
    *("time_embedder.linear_1", "time_embedder.linear_2", "text_embedder.linear_1", "text_embedder.linear_2"),
)
"""All linear layers of Wan's transformer."""
LORA = [
    f"roles.student.lora={{rank: 16, alpha: 16, targets: [{', '.join(LAYERS)}]}}",
    "roles.student.optimizer.learning_rate=0.0015",
]
ONE_STEP = [
    *("method.timesteps=[1000]", "method.name=dmd_gan", "method.gan_weight=0.06", "roles.student.ema_decay=0.97"),
    *("method.discriminator_turn=student", "method.reuse_rollout=true"),
    "roles.discriminator.optimizer={learning_rate: 0.003}",
]
"""One exit needs no ts_schedule, and gains most from the GAN term; its discriminator learns in the student's steps."""
ANY = [
    *("method.name=dmd_gan", "method.gan_weight=0.06", "method.discriminator_turn=student"),
    *("method.reuse_rollout=true", "method.ts_schedule=false", "method.consistency_weight=2"),
    *("roles.discriminator.optimizer={learning_rate: 0.003}", "train.steps=2100"),
]
"""A student for one, two or three steps; docs/exits.py measures each."""
PICTURES = ["evaluate.prompts=data/digits/prompts.json", "evaluate.images=data/digits/pictures.json"]
STUDENTS: dict[str, tuple[str, list[str]]] = {
    "dmd_3": (DMD, []),
    "dmd_3_lora": (DMD, LORA),
    "dmd_2": (DMD, ["method.timesteps=[1000, 750]"]),
    "dmd_1": (DMD, ONE_STEP),
    "dmd_any_3": (DMD, ANY),
    "dmd_phased_3": ("configs/dmd_phased_quickstart.yaml", []),
    "i2v_dmd_3": ("configs/i2v_quickstart.yaml", PICTURES),
    "lcm_4": ("configs/lcm_quickstart.yaml", []),
    "dcm_4": ("configs/dcm_quickstart.yaml", []),
    "dcm_fine_4": ("configs/dcm_fine_quickstart.yaml", ["roles.student.path=output/students/dcm_4_seed{seed}/export"]),
}
TEACHERS = {"teacher_many": "teacher", "teacher_same_steps_guided": "teacher, guided", "teacher_same_nfe": "teacher"}


def train(
    name: str, seed: int, overrides: list[str], students: Mapping[str, tuple[str, list[str]]] = STUDENTS, out: str = OUT
) -> dict[str, Any]:
    """Report of one of ``students`` in the folder ``out``, made now or earlier."""
    config, own = students[name]
    report = Path(f"{out}/{name}_seed{seed}/report.json")
    if not report.is_file() or "student" not in json.loads(report.read_text()):
        given = [f"output_dir={out}", f"name={name}_seed{seed}", f"seed={seed}", "evaluate.goals={}"]
        own = [override.replace("{seed}", str(seed)) for override in own]
        command = [sys.executable, ROOT / "train.py", ROOT / config, *given, *own, *overrides]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    read: dict[str, Any] = json.loads(report.read_text())
    return read


def row(label: str, rows: list[dict[str, Any]], cost: str = " | ") -> str:
    """One line of the table; the spread is over training seeds, for a teacher over sampling seeds."""
    distances = [r["frechet"] for r in rows]
    spread = stdev(distances) if len(distances) > 1 else rows[0]["frechet_spread"]
    each = ", ".join(f"{d:.1f}" for d in distances) if len(distances) > 1 else ""
    numbers = f"{mean(distances):.1f} ± {spread:.1f} | {each} | {mean(r['accuracy'] for r in rows):.3f}"
    few = any(r["diversity"] is None for r in rows)  # fewer than two videos of each prompt
    seen = (
        f"{'-' if few else format(mean(r['diversity'] for r in rows), '.2f')} | {mean(r['motion'] for r in rows):.3f}"
    )
    return f"| {label} | {rows[0]['nfe']} | {numbers} | {seen} | {cost} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args()
    reports = {name: [train(name, seed, args.overrides) for seed in args.seeds] for name in args.only}
    print(
        "| sampler | evaluations | FD | each seed | accuracy | diversity | motion | training s | GiB a worker |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    printed = set()
    for name, several in reports.items():
        for key, label in TEACHERS.items():
            teacher = several[0].get(key)
            if teacher is not None and (line := row(label, [teacher])) not in printed:
                printed.add(line)
                print(line)
        cost = " | "
        if all(r["memory_gib"] for r in several):  # a run that was trained before has neither seconds nor memory
            cost = f"{mean(r['phases']['train'] for r in several):.0f} | {max(r['memory_gib'] for r in several):.2f}"
        print(row(f"`{name}`", [r["student"] for r in several], cost))


if __name__ == "__main__":
    main()
