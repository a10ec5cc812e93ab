"""Write files whole or not at all: temporary name, sync, rename.

A new content goes under a temporary name into the same folder, is synced to the disk, renamed over the old one, and the
folder is synced. Some file systems (FUSE mounts of object stores, some network ones) cannot sync a folder, or anything:
there a rename is as durable as they make it, and only that is passed over; a full or failing disk is always an error.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM, errno.EACCES}
"""What file systems answer that cannot sync."""
PART = ".part"
"""Ends every temporary name."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name for the new content of ``path``, which takes its place when the block ends.

    Where the block or the disk fails, ``path`` stays as it was and nothing else is left. Writers of one path at the
    same time do not meet: each name is drawn anew. Raises OSError as the disk does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write(path: Path, content: bytes | str) -> None:
    """Make ``content`` that of ``path``; text is UTF-8."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def temporary_beside(path: Path) -> Path:
    """A name in the folder of ``path`` that nobody else has, however long that of ``path`` is."""
    return path.with_name(f".{secrets.token_hex(8)}{PART}")


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk, where the file system can."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        if not path.is_dir() or error.errno not in UNSUPPORTED:
            raise
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


@contextmanager
def alone(folder: Path, wait_s: float = 60) -> Iterator[None]:
    """Hold the lock of ``folder``; others wait for it, and go on without it after ``wait_s``. The system lets go of it
    when the process ends. A file system without locks, or that cannot be written, holds nobody back."""
    deadline = time.monotonic() + wait_s
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((folder / ".lock").open("a"))
            while not _locked(file) and time.monotonic() < deadline:
                time.sleep(0.05)
        except OSError as error:
            if error.errno not in UNSUPPORTED | {errno.EROFS, errno.ENOLCK}:
                raise
        yield


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
