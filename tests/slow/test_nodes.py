"""Three Ray nodes of two workers each, which share clips in pairs (dp 3 x sp 2): a node dies and another takes its
place; a node dies and the run goes on with four workers (dp 2 x sp 2) until one comes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from diffusers import WanTransformer3DModel

from ray_distill.checkpoint import Checkpoint
from tests.chaos import compare
from tests.chaos.chaos import EVERY, ROOT, Home
from tests.chaos.faults import Fault, folder_of
from tests.chaos.machines import Machines

STEPS = 6 * EVERY
SIZE = {"num_attention_heads": 4, "attention_head_dim": 12, "num_layers": 2, "ffn_dim": 64}
PAIRS = [
    "train.workers=6",
    "train.sequence_parallel=2",
    "train.global_batch=12",
    "train.micro_batch=2",
    "data.width=32",  # 36 tokens, which two ranks can share
    "train.log_every_s=0.1",
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """Three nodes of two workers; the digits' teacher has other weights, of four heads."""
    for name, value in {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "5",
    }.items():
        monkeypatch.setenv(name, value)
    digits = [sys.executable, ROOT / "examples/moving_digits.py", tmp_path / "digits", "--count", "60"]
    subprocess.run(digits, check=True, stdout=subprocess.DEVNULL)
    shutil.copytree(ROOT / "examples/digits_teacher", tmp_path / "teacher")
    described = json.loads((tmp_path / "teacher/transformer/config.json").read_text())
    shutil.rmtree(tmp_path / "teacher/transformer")
    WanTransformer3DModel.from_config(described | SIZE).save_pretrained(tmp_path / "teacher/transformer")
    machines = Machines(nodes=3, workers=2)
    monkeypatch.setenv("RAY_ADDRESS", machines.address)
    yield Home(tmp_path, STEPS, machines, patience=6.0)
    machines.close()


def worlds(run: Path) -> list[int]:
    """The number of workers of each checkpoint, in order."""
    return [Checkpoint(folder).state["world"] for folder in sorted(run.glob("step_*"))]


def test_pairs_of_workers_outlive_their_nodes(home: Home) -> None:
    pairs = [*PAIRS, f"model.path={home.folder / 'teacher'}"]
    straight = home.run("straight", [], *pairs)
    assert set(worlds(straight)) == {6}
    # Another node comes: the same six ranks go on, and all is equal bit for bit.
    killed = [Fault(0, "node-kill", "forward", step=EVERY + 1, rank=3, delay=0)]
    (row,) = compare.held_against(home.run("replaced", killed, *pairs), straight, killed, EVERY)
    assert row.equal, row
    # No node comes at first: four workers, and from the middle on six again.
    gone = [
        Fault(0, "node-kill, no other comes", "forward", step=EVERY + 1, rank=3, delay=0),
        Fault(1, "node-comes", "data", step=2 * EVERY + 1, rank=0, delay=0),
    ]
    run = home.run("fewer", gone, *pairs, "train.min_workers=4")
    found = worlds(run)
    assert found[0] == 6 and 4 in found and found[-1] == 6 and found == sorted(found[:1]) + sorted(found[1:]), found
    (row, _) = compare.held_close(run, straight, gone)
    assert row.equal, row
    assert all((folder_of(run) / fault.note).exists() for fault in gone)
