"""Clips through Ray Data against loops written by hand, what memory a preparation takes, and whether training waits.

    python benchmarks/data.py [--clips 800] [--rounds 5] [--cpus 1,2] [--memory 1000,10000] [--wait 160]

All decode and resize the same files, to equal pixels, in as many processes as there are CPUs, in turn after a warm-up:
a loop over decord that keeps its pixels where it made them, the same loop in PyTorch's DataLoader, and the pipeline;
these two hand their clips to another process, as encoders need it. A rate is that of the clips that come after the
first quarter of them: what a pipeline takes to start, each time anew, stands by itself. Each number of CPUs is a
process (and a Ray) of its own that is bound to so many cores, each size of a preparation one that reads its own peaks.
What waits is a step that sleeps as long as its batch takes to encode, while ``data.stream`` encodes beside it. Prints
a table and JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import decord
import numpy as np
import psutil
import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy
from torch.utils.data import DataLoader, Dataset

from ray_distill.data.encoders import Encoders
from ray_distill.data.feed.batches import micro_batches
from ray_distill.data.feed.stream import Stream, ordered
from ray_distill.data.prepare.beside import COLUMNS, Filling
from ray_distill.data.prepare.encode import EncodeClips
from ray_distill.data.prepare.listing import entries
from ray_distill.data.prepare.pipeline import DECODE, ENCODE, dataset, prepare, share
from ray_distill.data.prepare.stages import CLIPS, Decode, Look
from ray_distill.data.read.transform import resize
from ray_distill.data.read.video import write_clip
from ray_distill.data.source import Source
from ray_distill.data.store.cache import Cache
from ray_distill.data.store.tables import table_of
from ray_distill.models.pipeline import Pipeline
from ray_distill.train.launch import cluster
from ray_distill.types import Placement

ROOT = Path(__file__).parents[1]
BATCH = 8
FRAMES, SIZE, SMALL, FPS = 33, (288, 512), (192, 320), 16
DIGITS = ROOT / "examples/digits_teacher"
Seen = tuple[list[int], float]
"""Some clips' sums of pixels, and the seconds that they took to decode."""


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
        told["wait"] = alone("--one=wait", f"--wait={args.wait}")
        report(told)
    print(json.dumps(told))


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def alone(*arguments: str) -> Any:
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


# Throughput


def throughput(cpus: int, clips: int, rounds: int) -> dict[str, Any]:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cpus])  # Ray's processes and the pool's are bound, too
    with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(cpus) as pool:
        source = clips_in(Path(folder), clips)
        rows = table_of((row for entry in entries(source) for row in Look(source, (8, 8))(asdict(entry))), CLIPS)
        paths = rows["path"].to_pylist()
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        loader = ByLoader(paths, cpus)
        ways: dict[str, Callable[[], Iterator[Seen]]] = {
            "loop": lambda: by_hand(pool, paths),
            "DataLoader": lambda: iter(loader),
            "Ray Data": lambda: by_ray(source, rows),
        }
        sums = [sorted(one for some, _ in way() for one in some) for way in ways.values()]  # warms up, too
        assert sums == [sums[0]] * 3 and len(sums[0]) == clips, "the ways do not give equal pixels"
        measured: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                measured[name].append(timed(way(), clips))
        ray.shutdown()
    medians = {
        name: {key: statistics.median(one[key] for one in those) for key in those[0]}
        for name, those in measured.items()
    }
    ratios = {
        name: [one["clip"] / ours["clip"] for one, ours in zip(measured[name], measured["Ray Data"], strict=True)]
        for name in ("loop", "DataLoader")
    }
    return {
        "cpus": cpus,
        "clips": clips,
        "clips_per_second": {name: 1 / one["clip"] for name, one in medians.items()},
        "ratio": {name: statistics.median(those) for name, those in ratios.items()},
        "ratios": ratios,
        "ms_of_work_a_clip": {name: 1000 * one["work"] for name, one in medians.items()},
        "ms_of_a_cpu_a_clip": {name: 1000 * cpus * one["clip"] for name, one in medians.items()},
        "start_s": {name: one["start"] for name, one in medians.items()},
    }


def timed(way: Iterator[Seen], clips: int) -> dict[str, float]:
    """Seconds a clip after the first quarter has come, those that came before on top, and those in a decoder."""
    began, seen, work = time.perf_counter(), 0, 0.0
    first: tuple[float, int] | None = None
    for sums, seconds in way:
        seen, work = seen + len(sums), work + seconds
        if first is None and seen >= clips // 4:
            first = time.perf_counter(), seen
    assert first is not None and seen == clips, f"{seen} of {clips} clips came"
    clip = (time.perf_counter() - first[0]) / (clips - first[1])
    return {"clip": clip, "start": first[0] - began - first[1] * clip, "work": work / clips}


def clips_in(folder: Path, count: int, size: tuple[int, int] = SIZE, frames: int = FRAMES) -> Source:
    """``count`` files of ten pictures that drift; each has content of its own in a box that no player reads."""
    for number in range(10):
        noise = np.random.default_rng(number).integers(0, 256, (3, *(edge // 8 + 8 for edge in size)), np.uint8)
        large = np.kron(noise, np.ones((1, 8, 8), np.uint8)).transpose(1, 2, 0)
        drift = [np.roll(large, (frame, 2 * frame), (0, 1))[: size[0], : size[1]] for frame in range(frames)]
        write_clip(folder / "one.mp4", np.stack(drift), FPS)
        whole = (folder / "one.mp4").read_bytes()
        for copy in range(number, count, 10):
            (folder / f"a_{copy}.mp4").write_bytes(whole + struct.pack(">I4sQ", 16, b"free", copy))
    (folder / "one.mp4").unlink()
    shape = {"frames": frames, "height": SMALL[0], "width": SMALL[1], "fps": FPS, "encode_batch": BATCH}
    shape["cache_dir"] = folder / "cache"
    return Source(datasets=[{"videos": folder, "captions": "filename"}], **shape)


def decoded(path: str) -> tuple[np.ndarray, float]:
    """A clip's pixels, and the seconds that it took."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    reader = decord.VideoReader(path, num_threads=1)
    frames = reader.get_batch(range(FRAMES)).asnumpy()
    del reader
    pixels = resize(frames, *SMALL)
    return pixels, time.perf_counter() - began


def hand(path: str) -> tuple[int, float]:
    """The sum of a clip's pixels, so that all ways are known to see the same: they stay where they were decoded."""
    pixels, seconds = decoded(path)
    return int(pixels.sum(dtype=np.int64)), seconds


def by_hand(pool: Any, paths: list[str]) -> Iterator[Seen]:
    for value, seconds in pool.imap(hand, paths, chunksize=4):
        yield [value], seconds


class ByLoader(Dataset):
    """The same loop as a PyTorch data set: its loader's processes hand their pixels to one that encodes."""

    def __init__(self, paths: list[str], processes: int) -> None:
        self.paths = paths
        given: dict[str, Any] = {"multiprocessing_context": "spawn", "persistent_workers": True}
        self.loader = DataLoader(self, batch_size=BATCH, num_workers=processes, **given)

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[np.ndarray, float]:
        return decoded(self.paths[number])

    def __iter__(self) -> Iterator[Seen]:
        for pixels, seconds in self.loader:
            yield [int(clip.sum(dtype=np.int64)) for clip in pixels.numpy()], float(seconds.sum())


class Timed(Decode):
    def clip(self, row: dict[str, Any], out: np.ndarray | None = None) -> tuple[np.ndarray, str]:
        """The seconds, in place of the error that there is none of."""
        began = time.perf_counter()
        pixels, error = super().clip(row, out)
        assert not error, error
        return pixels, str(time.perf_counter() - began)


class Take:
    """In an encoder's place."""

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        sums = [int(clip.sum(dtype=np.int64)) for clip in rows["pixels"]]
        return {"sum": sums, "seconds": rows["error"].astype(float)}


def by_ray(source: Source, rows: pa.Table) -> Iterator[Seen]:
    decoded = dataset(rows).map_batches(Timed(source), batch_size=None, num_cpus=share(DECODE))
    compute = ActorPoolStrategy(min_size=1, max_size=1)
    taken = decoded.map_batches(Take, batch_size=BATCH, compute=compute, num_cpus=share(ENCODE))
    for batch in taken.iter_batches(batch_size=None, batch_format="numpy"):
        yield batch["sum"].tolist(), float(batch["seconds"].sum())


# Memory


def memory(clips: int) -> dict[str, Any]:
    """Peaks of a whole preparation, each in MiB: the driver, its largest worker, and what all of them hold."""
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
    """Without the object store's pages, which all processes share."""
    told = process.memory_info()
    return float(told.rss - told.shared)


# Waiting


def wait(clips: int) -> dict[str, Any]:
    """The share of its time that a step waits for data which is decoded and encoded on all CPUs meanwhile."""
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
            filling = Filling(source, models, cache, stream.needed(), cpus, lambda text: None)
            filling.start()
            data = stream.dataset()
            data.context.execution_options = ordered()
            batches = micro_batches(stream, data.iterator(), Placement(0, 1), torch.device("cpu"))
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
    one = told["wait"]
    print(
        f"{one['steps']} steps of {one['sleep_s']:.2f} s, as a batch takes to encode: {one['share_waited']:.1%} waited"
    )


if __name__ == "__main__":
    main()
