"""Check that a run can make and write its folders, and that they have room."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from ray_distill.config import ConfigError, RunConfig

PROBE = b"\0" * (1 << 16)


def check_folders(config: RunConfig) -> None:
    """Check that the run's folder and the cache are writable, and leave no trace of the attempt."""
    remedy = "choose another output_dir or name, or make room there"
    check_writable(config.run_dir, f"output_dir = {config.output_dir}", remedy)
    cache = config.data.cache_dir
    check_writable(cache, f"data.cache_dir = {cache}", "choose another data.cache_dir, or make room there")


def check_writable(folder: Path, key: str, remedy: str) -> None:
    """ConfigError unless files can be made, synced and renamed in ``folder``, or where it will be made."""
    try:
        there = _nearest(folder)
        if not there.is_dir():
            raise NotADirectoryError(20, "is a file, not a folder", str(there))
        probe = Path(tempfile.mkdtemp(prefix=".ray-distill-probe-", dir=there))
        try:
            _write(probe / folder.relative_to(there))
        finally:
            shutil.rmtree(probe, ignore_errors=True)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise ConfigError(f"{key}: cannot be written: {error.strerror or error}{where}; {remedy}") from None


def _nearest(folder: Path) -> Path:
    """``folder``, else its nearest existing parent. A dangling link counts as existing, and is no folder."""
    return next(path for path in (folder, *folder.parents) if os.path.lexists(path))


def _write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "part"
    with path.open("wb") as file:
        file.write(PROBE)
        file.flush()
        os.fsync(file.fileno())
    path.rename(path.with_name("whole"))
