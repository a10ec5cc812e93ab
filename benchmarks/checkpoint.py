"""Measure the cost of a checkpoint: seconds and bytes of a save and a load, and the saves' share of a run's time.

    python benchmarks/checkpoint.py [--workers 2] [--saves 4] [--cycles 4] [key=value ...]

It runs the quick start's engines in Ray Train workers: cycles of ``student_interval`` steps, then in turn a save in the
foreground and one in the background of the next cycles, then loads of the newest. The share refers to the time between
two saves at ``train.checkpoint_every``. It prints medians as a table and JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch

from ray_distill.config import load_config
from ray_distill.train.driver.cluster import cluster
from ray_distill.train.driver.fit import stream_of, trainer
from ray_distill.train.launch import make_cache
from ray_distill.train.wire.board import start_board
from ray_distill.train.wire.job import Job

ROOT = Path(__file__).parents[1]


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def worker(settings: dict[str, Any]) -> None:
    import torch

    from ray_distill.checkpoint import Checkpoint
    from ray_distill.checkpoint.layout import folder_name
    from ray_distill.data.feed.batches import micro_batches
    from ray_distill.data.feed.fetch import rows_ahead
    from ray_distill.rng import StatelessRng
    from ray_distill.train.worker.build import build_engines
    from ray_distill.train.worker.loop import resumed_rollouts
    from ray_distill.train.worker.saving import Saver
    from ray_distill.train.worker.step import train_step
    from ray_distill.types import Placement

    torch.set_num_threads(1)
    job: Job = settings["job"]
    config, context = job.config, ray.train.get_context()
    placement, device = Placement(context.get_world_rank(), context.get_world_size()), ray.train.torch.get_device()
    job.resume_point()
    rows = rows_ahead(lambda: ray.train.get_dataset_shard("train"), job.stream.micro_batch)
    batch = next(micro_batches(job.stream, rows, placement, device))
    engines = build_engines(config)
    saver = Saver(job, placement, engines, resumed_rollouts(config, placement, None, device))
    interval = config.method.student_interval  # type: ignore[attr-defined]

    def cycle() -> None:
        for step in range(interval):
            train_step(config.method, engines, batch, step, StatelessRng(0))
        saver.poll()

    cycle()  # warms up
    told: dict[str, list[float]] = {name: [] for name in ("cycle", "save", "begin", "until whole", "verify", "load")}
    for number in range(settings["saves"]):
        told["cycle"] += [seconds(cycle) for _ in range(settings["cycles"])]
        told["save"].append(seconds(lambda n=number: saver.save(2 * n)))  # type: ignore[misc]
        began, folder = time.perf_counter(), job.run_dir / folder_name(2 * number + 1)
        told["begin"].append(seconds(lambda n=number: saver.save(2 * n + 1, wait=False)))  # type: ignore[misc]
        while saver._writing is not None:
            cycle()
        told["until whole"].append(time.perf_counter() - began)
    newest = Checkpoint(folder)
    for _ in range(settings["saves"]):
        told["verify"].append(seconds(newest.verify))
        told["load"].append(seconds(lambda: engines.load(Checkpoint(folder))))
    if placement.data_rank == 0:
        size = sum(path.stat().st_size for path in folder.iterdir())
        Path(settings["out"]).write_text(json.dumps({"bytes": size, "interval": interval, "seconds": told}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--saves", type=int, default=4)
    parser.add_argument("--cycles", type=int, default=4)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, cluster(log_to_driver=False):
        script = [sys.executable, ROOT / "examples/moving_digits.py", f"{folder}/digits", "--count", "120"]
        subprocess.run(script, check=True, stdout=subprocess.DEVNULL)
        config = load_config(
            ROOT / "configs/quickstart.yaml",
            [
                f"output_dir={folder}/output",
                f"data.manifest={folder}/digits/manifest.jsonl",
                f"data.cache_dir={folder}/cache",
                f"model.path={ROOT / 'examples/digits_teacher'}",
                f"train.workers={args.workers}",
                *args.overrides,
            ],
            environment={},
        ).config
        job = Job(
            config.dump(),
            config.run_dir,
            stream_of(config, make_cache(config)),
            start_board(config.train.hang_timeout_s),
            None,
        )
        fit, out = trainer(job), f"{folder}/measured.json"
        fit.train_loop_per_worker = worker
        fit.train_loop_config = {"job": job, "saves": args.saves, "cycles": args.cycles, "out": out}
        fit.fit()
        measured = json.loads(Path(out).read_text())
    report(measured, args.workers, config.train.checkpoint_every)


def report(measured: dict[str, Any], workers: int, every: int) -> None:
    medians = {name: statistics.median(values) for name, values in measured["seconds"].items()}
    step, size = medians["cycle"] / measured["interval"], measured["bytes"]
    shares = {name: medians[name] / (every * step + medians[name]) for name in ("save", "begin")}
    says = {
        "save": f"waited for: {size / medians['save'] / 1e6:.0f} MB/s, {shares['save']:.2%} of a run's time",
        "begin": f"in the background, what training waits for: {shares['begin']:.2%} of a run's time",
        "until whole": "in the background, until it may be resumed from",
        "verify": f"every byte read and hashed, {size / medians['verify'] / 1e6:.0f} MB/s",
        "load": f"into the engines, {size / medians['load'] / 1e6:.0f} MB/s",
    }
    print(f"{workers} workers, a checkpoint of {size:,} bytes each {every} steps of {step:.3f} s")
    for name, meaning in says.items():
        print(f"{name:12} {medians[name]:8.3f} s   {medians[name] / step:6.1f} steps   {meaning}")
    print(json.dumps({"workers": workers, "bytes": size, "shares": shares, "step_s": step, "medians": medians}))


if __name__ == "__main__":
    main()
