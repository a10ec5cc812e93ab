"""Free disk where a run writes, and shared memory against Ray's need."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ray_distill.machine.line import Line, Needs
from ray_distill.memory import available

SHARED = Path("/dev/shm")
SHARE, MOST = 0.3, 10e9
"""Ray's object store takes this share of the memory; above so many bytes it shrinks to /dev/shm, below them it leaves
/dev/shm for a slow folder (Ray 2.60)."""


def disk(needs: Needs) -> Iterator[Line]:
    for key, folder in needs.folders.items():
        yield of_folder(key, folder.absolute(), needs.bytes.get(key, 0))


def of_folder(key: str, folder: Path, size: int) -> Line:
    """The line of one folder, into which a run puts ``size`` bytes beside those that the folder already has."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Line("missing", key, f"{there} cannot be written", f"give this user {there}, or set another {key}")
    growth = size - bytes_of(folder) if size else 0
    free = shutil.disk_usage(there).free
    text = f"{free / 1e9:,.1f} GB free at {folder}"
    if size:
        text += f"; checkpoints take up to {size / 1e9:,.1f} GB"
    if growth > free:
        return Line("missing", key, text, f"set another {key}, make room, or lower train.checkpoints_keep")
    return Line("ok", key, text)


def bytes_of(folder: Path) -> int:
    """Bytes of the files in ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def shared_memory() -> Line:
    if not SHARED.is_dir():
        return Line("note", "/dev/shm", "none on this system: Ray keeps objects in a temporary folder")
    free, store = shutil.disk_usage(SHARED).free, min(SHARE * available()[0], MOST)
    text = f"{free / 1e9:.1f} GB free, and Ray wants {store / 1e9:.1f}"
    if free < store:
        slow = f"{text}; below that it keeps objects in a temporary folder, and NCCL may find no room"
        return Line(
            "missing",
            "/dev/shm",
            slow,
            f"docker run --shm-size={store * 1.1 / 1e9:.0f}g, or an emptyDir of medium Memory",
        )
    return Line("ok", "/dev/shm", text)
