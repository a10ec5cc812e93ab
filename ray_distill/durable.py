"""Write files whole or not at all: temporary name, sync, rename.

New content is written under a temporary name in the same folder, synced to the disk, and renamed over the old file;
then the folder is synced. Some file systems (FUSE mounts of object stores, some network file systems) cannot sync a
folder, or cannot sync at all. Only that error is ignored, and a rename is as durable as the file system makes it; a
full or failing disk is always an error.
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
"""Errors of file systems that cannot sync."""
PART = ".part"
"""Suffix of every temporary name."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path for the new content of ``path``; it is renamed to ``path`` when the block ends.

    Where the block or the disk fails, ``path`` stays as it was, and the temporary file is removed. Several writers of
    one path do not collide, since each temporary name is drawn at random. Raises the disk's OSError."""
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
    """Replace the content of ``path`` by ``content``; text is written as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def temporary_beside(path: Path) -> Path:
    """A new random name in the folder of ``path``; its length does not depend on that of ``path``."""
    return path.with_name(f".{secrets.token_hex(8)}{PART}")


def sync(path: Path) -> None:
    """Sync a file's content, or a folder's names, to the disk, where the file system can."""
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
    """Hold the lock of ``folder`` within the block. Another process waits for the lock, and goes on without it after
    ``wait_s`` seconds. The system releases the lock when the process ends. A file system that has no locks, or cannot
    be written to, makes nobody wait."""
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
