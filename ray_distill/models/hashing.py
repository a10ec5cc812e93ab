"""Hash weights: read every byte once, and remember the hash.

The user's cache folder ($XDG_CACHE_HOME, else ~/.cache) stores the hash of a large file by the file's path; it holds
while the file's size, times and inode stay the same. Where that folder cannot be written, each process reads the file
again.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ray_distill import sealed
from ray_distill.models.places import memory, transformer_folder
from ray_distill.sealed import Damaged

if TYPE_CHECKING:
    from ray_distill.models.lora_files import LoRAFile

LARGE = 16 << 20
"""Least bytes of a file whose hash is remembered; a smaller file is read faster than its hash is looked up."""
SETTLED_NS = 2 * 10**9
"""Age in ns from which a file's time is trusted: a younger file may be written again without a new time."""


def folder_hash(folder: Path) -> str:
    """sha256 over the names, sizes and contents of all files below a folder; links are followed."""
    return _of(_files(folder), folder)


def weights_hash(source: Path, loras: Sequence[LoRAFile] = ()) -> str:
    """:func:`folder_hash` of a pipeline's transformer folder, or the hash of a single file. ``loras``, which are merged
    into these weights, count by content, weight and order."""
    own = folder_hash(transformer_folder(source)) if source.is_dir() else _of([source], source.parent)
    return merged_hash(own, loras)


def merged_hash(weights: str, loras: Sequence[LoRAFile]) -> str:
    """The hash of weights with ``loras`` merged; ``weights``, their own hash, where there are none."""
    if not loras:
        return weights
    lines = [weights, *(f"{file_hash(lora.path)} {lora.weight!r}" for lora in loras)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def ends_hash(source: Path) -> str:
    """The hash that older checkpoints have in place of :func:`weights_hash`; it covers only the first and last MiB of a
    file."""
    folder = transformer_folder(source) if source.is_dir() else source.parent
    digest = hashlib.sha256()
    for path in _files(folder) if source.is_dir() else [source]:
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)}{size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    path, now = path.resolve(), time.time_ns()
    state = _state(path)
    if state["size"] < LARGE:
        return _read(path)
    memo = memory() / "hashes" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()}.json"
    with suppress(OSError, Damaged):  # no hash is stored, or it cannot be read
        values = sealed.read_json(memo)
        if {name: values.get(name) for name in state} == state:
            return str(values["sha256"])
    sha256 = _read(path)
    if _state(path) == state and now - max(state["mtime_ns"], state["ctime_ns"]) > SETTLED_NS:
        with suppress(OSError):  # the folder cannot be written: the next process reads the file again
            sealed.write_json(memo, {"path": str(path), **state, "sha256": sha256})
    return sha256


def _of(files: Sequence[Path], folder: Path) -> str:
    digest = hashlib.sha256()
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for path, content in zip(files, pool.map(file_hash, files), strict=True):
            digest.update(os.fsencode(path.relative_to(folder)) + f"\0{path.stat().st_size}\0{content}\n".encode())
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    """All files below a folder, sorted. Links to folders are followed, and a loop of links lists each file only
    once."""
    visited, files = set[str](), list[Path]()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in visited:
            folders.clear()
            continue
        visited.add(real)
        files += [path for path in (Path(place, name) for name in names) if path.is_file()]
    return sorted(files)


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(path: Path) -> dict[str, int]:
    """The fields of ``stat`` that change when a file changes."""
    stat = path.stat()
    return {name: getattr(stat, f"st_{name}") for name in ("size", "mtime_ns", "ctime_ns", "ino", "dev")}
