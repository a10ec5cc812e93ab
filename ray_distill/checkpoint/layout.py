"""Names within a checkpoint.

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
PREFIX = "step_"


def folder_name(step: int) -> str:
    return f"{PREFIX}{step:08d}"


def file_name(role: str, writer: int, part: int) -> str:
    return f"{role}-{writer:04d}-{part:03d}.safetensors"


def fingerprint(path: Path) -> dict[str, int | str]:
    """Size in bytes and sha256 of a file."""
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
