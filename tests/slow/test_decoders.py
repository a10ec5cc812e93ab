"""What decoders hold: bounded, whatever a file's length, and nothing of a file that was closed."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
import pytest

from ray_distill.data.read import video
from ray_distill.data.read.clip import Cut
from ray_distill.data.read.transform import resize
from ray_distill.data.read.video import Video, read_clip
from tests.unit.data import real

BOUND = 250 << 20
"""Bytes that reading a clip takes at its peak, beside the interpreter, as docs/data.md says."""


def in_a_process(measure: Callable, *arguments: object) -> dict[str, float]:
    """What ``measure`` returns; a process that has decoded nothing before, so that its peak is that of this."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, arguments)  # type: ignore[no-any-return]


def fit(frames: np.ndarray, told: Video) -> np.ndarray:
    return resize(frames, 240, 416)


def peak() -> int:
    """Bytes, since clear_refs was written."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def last_clip(path: str, warm: str, seconds: float) -> dict[str, float]:
    """Bytes above those before, of the 49 frames that end a file of so many seconds."""
    read_clip(warm, Cut(2), fit)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: importing torch has one
    before = psutil.Process().memory_info().rss
    clip = read_clip(path, Cut(49, fps=16, number=int(seconds * 16) // 49 - 1), fit, preferred="decord")
    assert clip.frames.shape == (49, 240, 416, 3) and clip.frames.std() > 20
    return {"bytes": peak() - before, "decord": clip.decoder == "decord"}


@pytest.mark.parametrize(("name", "decord"), [("bikes", True), ("bigbuckbunny", False)])
def test_ten_minutes_take_no_more_than_one(tmp_path: Path, name: str, decord: bool) -> None:
    source, warm = real.videos()[name], str(real.videos()["carphone_distorted"])
    taken = []
    for seconds in (60, 600):
        path = str(real.looped(source, tmp_path / f"{seconds}.mp4", seconds))
        taken.append(in_a_process(last_clip, path, warm, seconds))
    assert all(bool(one["decord"]) == decord for one in taken)
    assert all(one["bytes"] < BOUND for one in taken), taken
    assert taken[1]["bytes"] < taken[0]["bytes"] + (24 << 20), taken


def cycles(path: str, decoder: str) -> dict[str, float]:
    """Bytes and open files more after 1,100 clips than after the first 600."""
    process, read = psutil.Process(), partial(read_clip, path, Cut(5, stride=3), preferred=decoder)
    told = []
    for count in (600, 500):  # an allocator settles within the first 500
        assert {read().decoder for _ in range(count)} == {decoder}
        gc.collect()
        told.append((process.memory_info().rss, process.num_fds(), process.num_threads()))
    first, last = told
    return dict(zip(("bytes", "files", "threads"), (b - a for a, b in zip(first, last, strict=True)), strict=True))


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_five_hundred_clips_leave_nothing_behind(decoder: str) -> None:
    left = in_a_process(cycles, str(real.videos()["carphone_pristine"]), decoder)
    assert left["files"] <= 0 and left["threads"] <= 0 and left["bytes"] < 4 << 20, left


def test_a_broken_file_leaves_nothing_behind(tmp_path: Path) -> None:
    whole = real.videos()["carphone_pristine"].read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    left = in_a_process(failures, str(tmp_path / "cut.mp4"))
    assert left["files"] <= 0 and left["threads"] <= 0 and left["bytes"] < 4 << 20, left


def failures(path: str) -> dict[str, float]:
    process, told = psutil.Process(), []
    for count in (600, 500):  # an allocator settles within the first 500
        for _ in range(count):
            with pytest.raises(video.BadClip):
                read_clip(path, Cut(5))
        gc.collect()
        told.append((process.memory_info().rss, process.num_fds(), process.num_threads()))
    first, last = told
    return dict(zip(("bytes", "files", "threads"), (b - a for a, b in zip(first, last, strict=True)), strict=True))
