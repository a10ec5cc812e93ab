"""Names of the files and folders of a checkpoint.

step_00000800/
  student-0000-000.safetensors ...   tensors "weights/<parameter>", "exp_avg/...", "exp_avg_sq/...", "ema/...";
                                     ZeRO-3's flat pieces: "weights/<parameter>#<first element>/<shape, as 48x32>"
  state.json                         step, counters, configuration, tracking run
  manifest.json                      size and sha256 of every other file, written last
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

STATE = "state.json"
MANIFEST = "manifest.json"
TENSORS = ".safetensors"
PREFIX = "step_"
ASIDE = "passed_over_"
"""Prefix of a checkpoint that a run did not resume from; it stays for its owner to inspect."""


def folder_name(step: int) -> str:
    return f"{PREFIX}{step:08d}"


def step_of(folder: Path) -> int | None:
    """The step in a folder's name; None for a folder that was renamed."""
    number = folder.name.removeprefix(PREFIX)
    return int(number) if folder.name.startswith(PREFIX) and number.isdecimal() else None


def folders(run_dir: Path) -> list[Path]:
    """A run's checkpoint folders, complete or not, oldest first."""
    return sorted((path for path in run_dir.glob(f"{PREFIX}*") if step_of(path) is not None), key=lambda p: p.name)


def file_name(role: str, writer: int, part: int) -> str:
    return f"{role}-{writer:04d}-{part:03d}{TENSORS}"


def role_of(name: str) -> str:
    """The role in a :func:`file_name`."""
    return name.rsplit("-", 2)[0]


def piece_name(name: str, start: int, shape: Sequence[int]) -> str:
    """The name of a flat piece, from element ``start`` on, of the tensor ``name`` of that ``shape``."""
    return f"{name}#{start}/{'x'.join(map(str, shape))}"


def piece_of(name: str) -> tuple[str, int, tuple[int, ...] | None]:
    """(the tensor's name, first element, whole shape) of a name in a file; the shape is None for a whole tensor."""
    name, cut, place = name.partition("#")
    if not cut:
        return name, 0, None
    start, _, shape = place.partition("/")
    return name, int(start), tuple(int(size) for size in shape.split("x"))


def fingerprint(path: Path) -> dict[str, int | str]:
    """Size in bytes and sha256 of a file."""
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
