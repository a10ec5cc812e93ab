"""Memory of this machine, or of this container where it has a limit of its own."""

from __future__ import annotations

from pathlib import Path

import psutil

GROUP = Path("/sys/fs/cgroup")
"""This container's group, in version 2 of Linux's control groups."""


def available() -> tuple[int, int]:
    """(bytes that processes may still take, bytes in all)."""
    memory = psutil.virtual_memory()
    free, total, limit = int(memory.available), int(memory.total), _read("memory.max")
    if not limit.isdecimal():  # "max" where there is no limit
        return free, total
    # Pages of files count as taken, and the kernel drops them when a process needs room.
    taken = dict(line.split() for line in _read("memory.stat").splitlines())
    used = int(_read("memory.current") or 0) - sum(int(taken.get(f"{kind}_file", 0)) for kind in ("active", "inactive"))
    return min(free, int(limit) - used), min(total, int(limit))


def _read(name: str) -> str:
    path = GROUP / name
    return path.read_text().strip() if path.is_file() else ""
