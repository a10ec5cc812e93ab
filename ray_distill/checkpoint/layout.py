"""Names of the files and folders of a checkpoint.

step_00000800/
  student-0000-000.safetensors ...   tensors "weights/<parameter>", "exp_avg/...", "exp_avg_sq/...", "ema/..."
  state.json                         step, counters, configuration, tracking run
  manifest.json                      size and sha256 of every other file, written last
"""

from __future__ import annotations

import hashlib
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


def fingerprint(path: Path) -> dict[str, int | str]:
    """Size in bytes and sha256 of a file."""
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
