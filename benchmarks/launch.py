"""Measure the time from the command to the first step, and the quick start's seconds by phase.

    python benchmarks/launch.py [key=value ...]

It runs `ray-distill train configs/quickstart.yaml` with its own Ray and an empty cache, shortened unless overrides
change this, and reads the times of its files. It prints a table and JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHORT = [
    "train.steps=40",
    "train.checkpoint_every=40",
    "train.log_every_s=0.2",
    "evaluate.videos=100",
    "evaluate.goals={}",
]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        script = [sys.executable, ROOT / "examples/moving_digits.py", f"{folder}/digits"]
        subprocess.run(script, check=True, stdout=subprocess.DEVNULL)
        run = Path(folder) / "output/quickstart"
        told = {
            "driver is up": run / "run.json",
            "cache is written": Path(folder) / "cache",
            "first rows": run / "metrics.jsonl",
            "trained": run / "step_00000040/manifest.json",
            "report": run / "report.json",
        }
        command = [
            *(sys.executable, ROOT / "train.py", ROOT / "configs/quickstart.yaml", *SHORT),
            *(f"output_dir={folder}/output", f"data.manifest={folder}/digits/manifest.jsonl"),
            *(f"data.cache_dir={folder}/cache", f"track.uri=sqlite:///{folder}/mlflow.db"),
            *(f"model.path={ROOT / 'examples/digits_teacher'}",),
            *(f"evaluate.metric={ROOT / 'examples/digits_teacher/metric'}", *sys.argv[1:]),
        ]
        began, seen = time.monotonic(), dict[str, float]()
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            for name, path in told.items():
                if name not in seen and (list(path.glob("*/card.json")) if path.name == "cache" else path.exists()):
                    seen[name] = time.monotonic() - began
            time.sleep(0.05)
        if process.returncode:
            raise SystemExit(f"the run ended with {process.returncode}")
        seen["ended"] = time.monotonic() - began
        phases = json.loads((run / "report.json").read_text())["phases"]
    print(f"{'moment':18} {'s since the command':>20}")
    for name, seconds in seen.items():
        print(f"{name:18} {seconds:20.1f}")
    print("phases: " + ", ".join(f"{name} {seconds} s" for name, seconds in phases.items()))
    print(
        json.dumps({"moments": seen, "launch_to_first_step_s": seen["first rows"] - seen["cache is written"], **phases})
    )


if __name__ == "__main__":
    main()
