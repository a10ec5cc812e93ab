"""Compare clips through Ray Data with simple loops; measure a preparation's memory, and training's waits for data.

    python benchmarks/data.py [--clips 800] [--rounds 5] [--cpus 1,2] [--memory 1000,10000] [--wait 160]

Three ways decode and resize the same files to equal pixels, with one process per CPU, in turn after a warm-up: a loop
over decord that keeps its pixels in its own process, the same loop in PyTorch's DataLoader, and the pipeline. The last
two hand their clips to another process, as encoders need it. Rates count clips after the first quarter; the time to
start, which each round repeats, has its own column. Each number of CPUs runs in its own process (and Ray), bound to
that many cores; each size of a preparation runs in a process that reads its own peaks. To measure waits, a step sleeps
as long as its batch takes to encode, while ``data.stream`` encodes beside it. It prints a table and JSON. An empty
--cpus or --memory, or --wait 0, leaves that part out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import torch
from _throughput import BATCH, clips_in, throughput

from ray_distill.data.encoders import Encoders
from ray_distill.data.feed.batches import micro_batches
from ray_distill.data.feed.fetch import rows_ahead
from ray_distill.data.feed.stream import Stream, in_turn
from ray_distill.data.prepare.beside import COLUMNS, Filling
from ray_distill.data.prepare.encode import EncodeClips
from ray_distill.data.prepare.pipeline import prepare
from ray_distill.data.prepare.stages import Decode
from ray_distill.data.source import Source
from ray_distill.data.store.cache import Cache
from ray_distill.models.pipeline import Pipeline
from ray_distill.train.driver.cluster import cluster
from ray_distill.types import Placement

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "examples/digits_teacher"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpus", type=numbers, default=[1, 2])
    parser.add_argument("--memory", type=numbers, default=[1000, 10000])
    parser.add_argument("--wait", type=int, default=160)
    parser.add_argument("--one", choices=["throughput", "memory", "wait"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one == "throughput":
        told: Any = throughput(args.cpus[0], args.clips, args.rounds)
    elif args.one == "memory":
        told = memory(args.memory[0])
    elif args.one == "wait":
        told = wait(args.wait)
    else:
        clips, rounds = f"--clips={args.clips}", f"--rounds={args.rounds}"
        fast = [alone("--one=throughput", f"--cpus={count}", clips, rounds) for count in args.cpus]
        told = {"throughput": fast, "memory": [alone("--one=memory", f"--memory={count}") for count in args.memory]}
        if args.wait:
            told["wait"] = alone("--one=wait", f"--wait={args.wait}")
        report(told)
    print(json.dumps(told))


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def alone(*arguments: str) -> Any:
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


# Memory


def memory(clips: int) -> dict[str, Any]:
    """Peaks of a whole preparation in MiB: of the driver, of its largest worker, and of all together."""
    with tempfile.TemporaryDirectory() as folder:
        source = clips_in(Path(folder), clips, (96, 96), 9)
        source = source.model_copy(update={"height": 24, "width": 24, "encode_batch": 64})
        began = time.perf_counter()
        with cluster(log_to_driver=False), watched() as peaks:
            cache = prepare(source, Encoders(Pipeline("wan", DIGITS), 8), lambda text: None)
        assert len(cache.index) == clips
    return {"clips": clips, "seconds": time.perf_counter() - began, **peaks}


@contextlib.contextmanager
def watched() -> Iterator[dict[str, float]]:
    peaks: dict[str, float] = {"driver": 0, "largest worker": 0, "store": 0}
    ended = threading.Event()

    def watch() -> None:
        me = psutil.Process()
        while not ended.wait(0.2):
            found = {"driver": private(me), "largest worker": 0.0, "store": 0.0}
            for process in me.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if process.name().startswith("ray::"):
                        found["largest worker"] = max(found["largest worker"], private(process))
            for name, value in found.items():
                peaks[name] = max(peaks[name], round(value / 2**20, 1))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def private(process: psutil.Process) -> float:
    """Memory without the object store's pages, which all processes share."""
    told = process.memory_info()
    return float(told.rss - told.shared)


# Waiting


def wait(clips: int) -> dict[str, Any]:
    """Share of the time that steps wait for data, while all CPUs decode and encode."""
    with tempfile.TemporaryDirectory() as folder:
        script = [sys.executable, ROOT / "examples/tiny_wan.py", f"{folder}/wan"]
        subprocess.run(script, check=True, stdout=subprocess.DEVNULL)
        (Path(folder) / "in").mkdir()
        given = {"encode_batch": BATCH, "encoders": 2, "stream": True}
        source = clips_in(Path(folder) / "in", clips, frames=17).model_copy(update=given)
        models = Encoders(Pipeline("wan", Path(folder) / "wan"), 16)
        with cluster(log_to_driver=False):
            cache = prepare(source, models, lambda text: None)
            stream = Stream(cache, 0, 0, clips // BATCH, 1, BATCH, BATCH, with_latents=True, fields=models.fields)
            seconds = encoding(source, models, cache)
            cpus = ray.cluster_resources()["CPU"]
            filling = Filling(source, models, cache, stream.row_order(), cpus, lambda text: None)
            filling.start()
            data = stream.dataset()
            data.context.execution_options = in_turn()
            rows = rows_ahead(data.iterator, stream.micro_batch)
            batches = micro_batches(stream, rows, Placement(0, 1), torch.device("cpu"))
            next(batches)  # actors have started
            waits = []
            for _ in range(1, stream.steps):
                began = time.perf_counter()
                next(batches)
                waits.append(time.perf_counter() - began)
                time.sleep(seconds)
            filling.check()
    share_waited = sum(waits) / (sum(waits) + seconds * len(waits))
    return {"steps": len(waits), "sleep_s": seconds, "share_waited": share_waited, "cpus": cpus}


def encoding(source: Source, models: Encoders, cache: Cache) -> float:
    """Seconds of a batch in an encoder on one core, before anything else runs."""
    torch.set_num_threads(1)
    rows = cache.rows(range(BATCH), COLUMNS)
    decoded = next(Decode(source)({name: np.array([row[name] for row in rows], object) for name in rows[0]}))
    encoder, seconds = EncodeClips(models), []
    for _ in range(3):
        began = time.perf_counter()
        encoder(decoded)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def report(told: dict[str, Any]) -> None:
    print(f"{'CPUs':>4} {'way':10} {'clips/s':>8} {'start, s':>8} {'ours to it':>10}   ms of a CPU a clip, decoding")
    for one in told["throughput"]:
        for name, rate in one["clips_per_second"].items():
            ratio = f"{one['ratio'][name]:.2f}" if name in one["ratio"] else ""
            whole, work, start = (one[key][name] for key in ("ms_of_a_cpu_a_clip", "ms_of_work_a_clip", "start_s"))
            print(f"{one['cpus']:4} {name:10} {rate:8.1f} {start:8.1f} {ratio:>10}   {whole:.1f}, {work:.1f}")
    for one in told["memory"]:
        sizes = ", ".join(f"{name} {one[name]} MiB" for name in ("driver", "largest worker"))
        print(f"{one['clips']} clips in {one['seconds']:.0f} s: {sizes}")
    if (one := told.get("wait")) is None:
        return
    print(
        f"{one['steps']} steps of {one['sleep_s']:.2f} s, as a batch takes to encode: {one['share_waited']:.1%} waited"
    )


if __name__ == "__main__":
    main()
