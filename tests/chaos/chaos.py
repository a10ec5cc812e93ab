"""make chaos, or: python -m tests.chaos.chaos --seed 0

Faults over a tiny run on three Ray nodes of this machine, in an order, at steps and on ranks that follow from the seed.
The run that suffered them is then held against one that suffered none, bit for bit: every checkpoint's tensors and
counters, every logged row, and every row that was logged twice. Last, a node is taken away for good, and the run goes
on with fewer workers: within 0.05 x lr. Prints a table; the exit code is 1 where anything differs.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

from tests.chaos import compare, faults
from tests.chaos.faults import Fault
from tests.chaos.machines import WORKER_CPUS, Machines

ROOT = Path(__file__).parents[2]
EVERY = 4
"""Steps from checkpoint to checkpoint."""
HANG_S, NOTICE_S = 20, 6.0
KINDS = [
    *(("kill", phase) for phase in ("data", "forward", "backward", "step", "meet", "save", "settle", "load")),
    ("kill", "forward"),
    ("kill", "backward"),
    ("raise", "forward"),
    ("hang", "backward"),
    ("freeze", "forward"),
    ("node-kill", "forward"),
    ("node-kill", "save"),
    ("node-notice", "backward"),
    ("driver-kill", "load"),
    ("driver-kill and a truncated checkpoint", "backward"),
    ("driver-kill and a checkpoint without manifest", "forward"),
    ("driver-kill", "save"),
    ("driver-term", "step"),
    ("driver-int", "data"),
]
GONE = [("node-notice, no other comes", "forward")]
STOPS = {"driver-term": signal.SIGTERM, "driver-int": signal.SIGINT}


@dataclass
class Home:
    folder: Path
    steps: int
    machines: Machines
    patience: float
    taken: list[tuple[float, str, bool]] = field(default_factory=list)
    """(when, node, whether another one comes) of nodes under notice."""

    def command(self, name: str, *overrides: str) -> list[str]:
        model = ROOT / "examples/digits_teacher"
        settings = {
            "name": name,
            "output_dir": self.folder / "output",
            "data.manifest": self.folder / "digits/manifest.jsonl",
            "data.cache_dir": self.folder / "cache",
            "model.path": model,
            "track.uri": "''",
            "train.steps": self.steps,
            "train.global_batch": 8,
            "train.micro_batch": 4,
            "train.cpus_per_worker": WORKER_CPUS,
            "train.checkpoint_every": EVERY,
            "train.checkpoints_keep": 1000,
            "train.log_every_s": 0.2,
            "train.max_failures": 100,
            "train.hang_timeout_s": round(HANG_S * self.patience),
            "method.student_interval": 2,
            "evaluate.enabled": "false",
            "evaluate.metric": "null",
            "evaluate.goals": "{}",
        }
        pairs = [f"{key}={value}" for key, value in settings.items()]
        start = [sys.executable, "-m", "tests.chaos.driver", "train"]
        return [*start, str(ROOT / "configs/quickstart.yaml"), *pairs, *overrides]

    def run(self, name: str, planned: list[Fault], *overrides: str) -> Path:
        """Train ``name`` to its end under these faults; the driver is started again where it was ended. Its folder."""
        run = self.folder / "output" / name
        chaos = faults.folder_of(run)
        chaos.mkdir(parents=True)
        faults.write_plan(chaos, planned)
        while True:
            with (chaos / "driver.log").open("a") as log:
                driver = subprocess.Popen(self.command(name, *overrides), cwd=ROOT, stdout=log, stderr=log)
            ended = self._watch(driver, chaos, planned)
            if ended is None and driver.returncode == 0:
                return run
            stopped = STOPS.get(ended.kind) if ended else None
            if ended is None or driver.returncode != (128 + stopped if stopped else -signal.SIGKILL):
                raise RuntimeError(
                    f"driver: exit code {driver.returncode}\n{(chaos / 'driver.log').read_text()[-4000:]}"
                )
            if " and a " in ended.kind:
                tear(run, ended.kind)

    def _watch(self, driver: subprocess.Popen[bytes], chaos: Path, planned: list[Fault]) -> Fault | None:
        """Until the driver ends: what of the faults is not the workers' own. Returns the fault that ended it."""
        ended, open_ = None, [fault for fault in planned if not (chaos / fault.note).exists()]
        while driver.poll() is None:
            time.sleep(0.02)
            for fault in [fault for fault in open_ if compare.note(chaos, fault)]:
                open_.remove(fault)
                if fault.kind.startswith("driver-"):
                    ended = fault
                    driver.send_signal(STOPS.get(fault.kind, signal.SIGKILL))
                elif fault.kind == "node-comes":
                    self.machines.add()
                elif fault.kind.startswith("node-"):
                    self._take(fault, compare.note(chaos, fault)["node"])
            for when, node, replaced in [each for each in self.taken if each[0] <= time.time()]:
                self.taken.remove((when, node, replaced))
                self.machines.kill(node)
                if replaced:
                    self.machines.add()
        return ended

    def _take(self, fault: Fault, node: str) -> None:
        wait = 0.0
        if fault.kind.startswith("node-notice"):
            wait = NOTICE_S * self.patience
            self.machines.notice(node, wait)
        self.taken.append((time.time() + wait, node, not fault.kind.endswith("no other comes")))


def tear(run: Path, kind: str) -> None:
    """Damage the newest checkpoint, as a machine would that died while it was written."""
    newest = max(folder for folder in run.glob("step_*") if (folder / "manifest.json").is_file())
    if "truncated" in kind:
        shard = sorted(newest.glob("*.safetensors"))[0]
        os.truncate(shard, shard.stat().st_size // 2)
    else:
        (newest / "manifest.json").unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=len(KINDS), help="only the first so many, in the seed's order")
    parser.add_argument("--patience", type=float, default=1.0, help="more than 1 for a busy machine: hangs, notices")
    parser.add_argument(
        "--folder", type=Path, help="for runs and logs; by default a new one, which stays if runs differ"
    )
    args = parser.parse_args()
    planned = faults.plan(KINDS, args.seed)[: args.faults]
    os.environ |= {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
        "RAY_health_check_period_ms": "1000",  # a dead node is known to be dead after 3 s
        "RAY_health_check_failure_threshold": "3",
    }
    began = time.monotonic()
    folder = args.folder or Path(tempfile.mkdtemp())
    digits = [sys.executable, ROOT / "examples/moving_digits.py", folder / "digits", "--count", "60"]
    subprocess.run(digits, check=True, stdout=subprocess.DEVNULL)
    steps = -(-(planned[-1].step + 6 * EVERY) // EVERY) * EVERY
    machines = Machines()
    os.environ["RAY_ADDRESS"] = machines.address
    try:
        home = Home(folder, steps, machines, args.patience)
        straight = home.run("straight", [])
        print(f"{steps} steps without a fault: {time.monotonic() - began:.0f} s", flush=True)
        run = home.run("chaos", planned)
        rows = compare.held_against(run, straight, planned, EVERY)
        gone = [Fault(0, *GONE[0], step=steps - 3 * EVERY, rank=1, delay=0)]
        start = straight / f"step_{steps - 4 * EVERY:08d}"
        # No failure is allowed: a node that goes with notice does not count as one.
        fewer = ("train.min_workers=1", "train.max_failures=0", f"train.resume_from={start}")
        run = home.run("fewer", gone, *fewer)
        rows += compare.held_close(run, straight, gone)
    finally:
        machines.close()
    print(compare.table(rows))
    print(f"{len(rows)} faults in {(time.monotonic() - began) / 60:.1f} minutes, seed {args.seed}")
    equal = all(row.equal for row in rows)
    if equal and not args.folder:
        shutil.rmtree(folder)
    else:
        print(f"runs and logs are in {folder}")
    return int(not equal)


if __name__ == "__main__":
    sys.exit(main())
