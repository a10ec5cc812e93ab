"""Throughput of the data benchmark: the same clips by a loop, by PyTorch's DataLoader and by the pipeline."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import decord
import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy
from torch.utils.data import DataLoader, Dataset

from ray_distill.data.prepare.listing import entries
from ray_distill.data.prepare.pipeline import ENCODE, dataset, share
from ray_distill.data.prepare.stages import CLIPS, Decode, Look
from ray_distill.data.read.transform import resize
from ray_distill.data.read.video import write_clip
from ray_distill.data.source import Source
from ray_distill.data.store.tables import table_of

BATCH = 8
DECODES = 0.75
"""CPUs of a decoding task, so that each CPU has one: no stage writes here, for which Ray Data would keep CPUs back."""
FRAMES, SIZE, SMALL, FPS = 33, (288, 512), (192, 320), 16
Seen = tuple[list[int], float]
"""Sums of some clips' pixels, and the seconds of their decoding."""


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
    """Seconds per clip after the first quarter, the seconds of the start, and the seconds in a decoder."""
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
    """Write ``count`` files of ten drifting pictures; each has its own content in a box that no player reads."""
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
    """A clip's pixels, and the seconds of its decoding."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    reader = decord.VideoReader(path, num_threads=1)
    frames = reader.get_batch(range(FRAMES)).asnumpy()
    del reader
    pixels = resize(frames, *SMALL)
    return pixels, time.perf_counter() - began


def hand(path: str) -> tuple[int, float]:
    """Sum of a clip's pixels, to compare the ways; the pixels stay in the decoding process."""
    pixels, seconds = decoded(path)
    return int(pixels.sum(dtype=np.int64)), seconds


def by_hand(pool: Any, paths: list[str]) -> Iterator[Seen]:
    for value, seconds in pool.imap(hand, paths, chunksize=4):
        yield [value], seconds


class ByLoader(Dataset):
    """The same loop as a PyTorch data set, whose loader's processes hand their pixels to an encoding process."""

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
    def clip(self, row: dict[str, Any], *into: np.ndarray | None) -> tuple[np.ndarray, str]:
        """Return the seconds in place of an error."""
        began = time.perf_counter()
        pixels, error = super().clip(row, *into)
        assert not error, error
        return pixels, str(time.perf_counter() - began)


class Take:
    """Stand-in for an encoder."""

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        sums = [int(clip.sum(dtype=np.int64)) for clip in rows["pixels"]]
        return {"sum": sums, "seconds": rows["error"].astype(float)}


def by_ray(source: Source, rows: pa.Table) -> Iterator[Seen]:
    decoded = dataset(rows).map_batches(Timed(source), batch_size=None, num_cpus=share(DECODES))
    compute = ActorPoolStrategy(min_size=1, max_size=1)
    taken = decoded.map_batches(Take, batch_size=BATCH, compute=compute, num_cpus=share(ENCODE))
    for batch in taken.iter_batches(batch_size=None, batch_format="numpy"):
        yield batch["sum"].tolist(), float(batch["seconds"].sum())
