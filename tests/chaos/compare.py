"""Compare a run that suffered faults with one that did not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ray_distill.checkpoint import Checkpoint
from tests.chaos.faults import RAW, STEPS, Fault, folder_of

KINDS = ("weights", "exp_avg", "exp_avg_sq", "ema")
ROLES = ("student", "fake_score")
LR = {"student": 3e-4, "fake_score": 2e-3}
"""Of configs/quickstart.yaml."""


@dataclass(frozen=True)
class Row:
    fault: str
    where: str
    recovered: str
    lost: str
    equal: bool
    held: str


def note(chaos: Path, fault: Fault) -> dict[str, Any] | None:
    """The note of a worker that was struck; None before the strike, and while the note is being written."""
    path = chaos / fault.note
    text = path.read_text() if path.exists() else ""
    found: dict[str, Any] | None = json.loads(text) if text.endswith("}") else None
    return found


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = Checkpoint(folder)
    checkpoint.verify()
    return {
        f"{role}/{kind}/{name}": tensor
        for role in ROLES
        for kind in KINDS
        for name, tensor in checkpoint.tensors(role, kind).items()
    }


def same(one: Path, other: Path) -> bool:
    """True where two checkpoints are equal bit for bit, in tensors and counters."""
    left, right = tensors(one), tensors(other)
    counters = Checkpoint(one).state["roles"] == Checkpoint(other).state["roles"]
    return counters and left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def differing_rows(run: Path, straight: Path) -> list[str]:
    """Faults of the logged series: missing, doubled or different rows, including rows that the driver dropped."""
    wanted, found = read(straight / "metrics.jsonl"), read(run / "metrics.jsonl")
    due, steps = ([int(row["step"]) for row in rows] for rows in (wanted, found))
    missing, double = sorted({*due} - {*steps}), sorted({step for step in steps if steps.count(step) > 1})
    wrong = []
    if found != wanted:
        wrong = [f"the series of the two runs differ: steps {missing} are missing, {double} double"]
    by_step = {row["step"]: row for row in wanted}
    twice = [row for row in read(folder_of(run) / RAW) if row != by_step[row["step"]]]
    return wrong + [f"a row of step {row['step']:.0f} came with another value" for row in twice]


def held_against(run: Path, straight: Path, planned: list[Fault], every: int) -> list[Row]:
    """A row a fault: equal is that the next checkpoint after it is, and that the whole series and the end are."""
    end = max(straight.glob("step_*"))
    chaos, wrong = folder_of(run), differing_rows(run, straight)
    if not same(run / end.name, end):
        wrong.append("the last checkpoints differ")
    for text in wrong:
        print(f"differs: {text}")
    rows = []
    for fault in planned:
        seconds, resumed, lost = recovery(chaos, fault)
        name = f"step_{every * (resumed // every + 1):08d}"
        equal = not wrong and same(run / name, straight / name)
        rows.append(Row(fault.kind, where(chaos, fault), seconds, lost, equal, "bit for bit" if equal else "DIFFERS"))
    return rows


def held_close(run: Path, straight: Path, planned: list[Fault]) -> list[Row]:
    """The same where another number of workers goes on: weights and averages within 0.05 x lr, rows none missing."""
    end = max(straight.glob("step_*")).name
    left, right = tensors(run / end), tensors(straight / end)
    far = max(
        float((left[name] - right[name]).abs().max()) / LR[name.split("/")[0]]
        for name in left
        if "/weights/" in name or "/ema/" in name
    )
    steps = [row["step"] for row in read(run / "metrics.jsonl")]
    whole = steps == [row["step"] for row in read(straight / "metrics.jsonl")][-len(steps) :]
    counters = Checkpoint(run / end).state["roles"] == Checkpoint(straight / end).state["roles"]
    rows = []
    for fault in planned:
        seconds, _, lost = recovery(folder_of(run), fault)
        equal = far < 0.05 and whole and counters and left.keys() == right.keys()
        rows.append(Row(fault.kind, where(folder_of(run), fault), seconds, lost, equal, f"{far:.4f} x lr"))
    return rows


def where(chaos: Path, fault: Fault) -> str:
    found = note(chaos, fault) or {}
    return f"{fault.phase}, rank {fault.rank}" + (f", step {found['step']}" if found.get("step") is not None else "")


def recovery(chaos: Path, fault: Fault) -> tuple[str, int, str]:
    """(seconds until workers asked for data again, the step at which they did, the number of repeated steps)."""
    struck = note(chaos, fault)
    assert struck is not None, f"{fault} never struck"
    marks = read(chaos / STEPS)
    before = {mark["pid"] for mark in marks if mark["time"] <= struck["time"]}
    again = next(mark for mark in marks if mark["time"] > struck["time"] and mark["pid"] not in before)
    done = max((mark["step"] for mark in marks if mark["time"] < again["time"] and mark["pid"] in before), default=0)
    return f"{again['time'] - struck['time']:.0f} s", again["step"], str(max(0, done - again["step"]))


def table(rows: list[Row]) -> str:
    lines = ["| fault | where | recovered in | steps done again | equal |", "|---|---|---|---|---|"]
    lines += [f"| {row.fault} | {row.where} | {row.recovered} | {row.lost} | {row.held} |" for row in rows]
    return "\n".join(lines)
