"""The benchmarks and the table of students run, shortened, and print what they promise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ray.conftest import ROOT


def last_line(*command: str) -> dict:
    told = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=600)
    assert told.returncode == 0, told.stderr[-3000:]
    result: dict = json.loads(told.stdout.splitlines()[-1])
    return result


OWN = [
    f"model.path={ROOT / 'examples/digits_teacher'}",
    *(f"data.{key}" for key in ("frames=9", "height=24", "width=24")),
]


@pytest.mark.parametrize(
    "like",
    [[], ["--like", "fastgen"], ["--like", "fastvideo", "model.max_sequence_length=8", *OWN]],
    ids=["", "fastgen", "fastvideo in bf16"],
)
def test_steps(like: list[str]) -> None:
    measured = last_line("benchmarks/step.py", "--cycles", "1", *like)
    bare, ours, run = (measured["forwards"][name] for name in ("bare", "engines", "run"))
    assert bare == ours == run  # none after the exit step, none under gradient that needs none
    assert measured["forwards"]["bare"]["teacher without gradient"] == 1
    assert "teacher with gradient" not in bare and bare["student with gradient"] == 1
    assert all(ratio > 0 for ratio in measured["ratios"].values())


def test_checkpoint() -> None:
    measured = last_line("benchmarks/checkpoint.py", "--saves", "1", "--cycles", "1")
    assert measured["bytes"] > 1 << 20 and set(measured["shares"]) == {"save", "begin"}
    assert all(0 < share < 1 for share in measured["shares"].values())
    assert all(value > 0 for value in measured["medians"].values())


def test_launch() -> None:
    measured = last_line("benchmarks/launch.py")
    assert measured["launch_to_first_step_s"] > 0
    assert list(measured["moments"]) == ["driver is up", "cache is written", "first rows", "trained", "report", "ended"]


def test_data() -> None:
    """Ratios belong to a quiet machine: here the two ways agree on pixels, and each number is there."""
    measured = last_line(
        *("benchmarks/data.py", "--clips", "40", "--rounds", "1", "--cpus", "2", "--memory", "40", "--wait", "24")
    )
    (fast,), (prepared,) = measured["throughput"], measured["memory"]
    # Rates of so few clips say nothing; that all ways saw equal pixels is asserted there.
    assert set(fast["ratio"]) == {"loop", "DataLoader"} and all(ms > 0 for ms in fast["ms_of_work_a_clip"].values())
    assert prepared["driver"] > 0 and prepared["largest worker"] > 0
    assert measured["wait"]["steps"] == 2 and 0 <= measured["wait"]["share_waited"] < 1


def test_gpu() -> None:
    """The GPU kit on a CPU: every case ends with its numbers, and the same network twice is the same."""
    measured = last_line("benchmarks/gpu.py", "--tiny", "--cycles", "1")
    assert [row["failed"] for row in measured["rows"] if "failed" in row] == []
    trained = [row for row in measured["rows"] if "cycle_s" in row]
    assert len(trained) == 7 and all(row["flops_per_s"] > 0 and row["planned_bytes"] > 0 for row in trained)
    assert measured["rows"][0]["copy_s"] > 0 and measured["rows"][0]["copy_pageable_s"] > 0
    (drift,) = [row for row in measured["rows"] if "cosine" in row]
    assert 0 < drift["drift"] < 1 and drift["cosine"] > 0.5
    if measured["devices"] == ["cpu", "cpu"]:
        assert measured["difference"] == 0


BARE = """
import importlib.metadata, re, runpy, sys
def plain(name):
    return re.sub("[-_.]+", "-", name).lower()
lines = open("benchmarks/gpu.txt").read().splitlines()
torch = "torch filelock typing-extensions sympy networkx jinja2 fsspec setuptools markupsafe mpmath triton"
there = {plain(name) for name in [*lines[1:], *torch.split(), "ray-distill"]}
for module, names in importlib.metadata.packages_distributions().items():
    if not {plain(name) for name in names} & there and not plain(names[0]).startswith(("nvidia", "cuda")):
        sys.modules[module] = None
sys.path.insert(0, "benchmarks")  # as for any script
sys.argv = ["benchmarks/gpu.py", "--cycles", "1", "--case", sys.argv[1]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    "case",
    ['{"network": "tiny", "dtype": "bfloat16", "lora": {"rank": 4}, "shared": true}', '{"part": "text", "tiny": true}'],
)
def test_the_gpu_kit_takes_no_more_than_its_list(case: str) -> None:
    assert last_line("-c", BARE, case)


def test_students(digits: Path, tmp_path: Path) -> None:
    short = ["train.steps=5", "evaluate.videos=20", "evaluate.seeds=[1,2]", "evaluate.teacher_steps=2"]
    short += ["evaluate.guidance_grid=[2.0]", "evaluate.shift_grid=[3.0]", f"data.manifest={digits}"]
    teacher = ROOT / "examples/digits_teacher"
    short += [f"model.path={teacher}", f"evaluate.metric={teacher / 'metric'}"]
    command = [sys.executable, ROOT / "docs/students.py", *short, "--seeds", "1", "--only", "dmd_1"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert told.returncode == 0, told.stderr[-3000:]
    rows = [line.split(" | ") for line in told.stdout.splitlines()]
    assert [row[0] for row in rows[2:]] == ["| teacher", "| teacher, guided", "| teacher", "| `dmd_1`"]
    assert [row[1] for row in rows[2:]] == ["4", "2", "1", "1"]


def test_memory() -> None:
    """What is planned is what is held, ZeRO-3 falls as 1/n, and a shared base is one network."""
    rows = {(row["mode"], row["ranks"]): row for row in last_line("benchmarks/memory.py")["rows"]}
    for row in rows.values():
        assert row["planned"] == {role: pytest.approx(size, rel=0.03) for role, size in row["bytes"].items()}
    two, four = (sum(rows["full ZeRO-3", n]["bytes"].values()) for n in (2, 4))
    assert four / two == pytest.approx(1 / 2, rel=0.03)
    for mode, shards in (("shared base whole", 1), ("shared base ZeRO-3", 2)):
        row = rows[mode, 2]
        assert row["bytes"]["teacher"] <= 1.15 * 2 * row["elements"] / shards


def test_activations() -> None:
    """The plan's bytes are autograd's, each of eight ways."""
    rows = last_line("benchmarks/activations.py", "--layers", "4", "--width", "128")["rows"]
    assert len(rows) == 8 and all(row["saved"] > 1 << 16 for row in rows)
    for row in rows:
        assert row["planned"] == pytest.approx(row["saved"], rel=0.15)
