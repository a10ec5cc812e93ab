"""Read files on this machine, in an object store (fsspec) or in a tar shard.

A place is a path or a URI. A member of a shard is ``shard.tar::offset::size::name``.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, BinaryIO, TypeVar
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs
from pydantic import PlainSerializer, PlainValidator

from ray_distill.data.read.clip import BadClip
from ray_distill.settings import absolute

T = TypeVar("T")
More = Callable[[], bool]
"""Called between the items of a long list; the reader goes on while it returns true."""
SLICE = "::"
_MEMBER = re.compile(r"(.*?\.tar)::(\d+)::(\d+)::(.*)", re.DOTALL | re.IGNORECASE)
PIECE = 16 << 20
UNREADABLE = (OSError, pa.ArrowException, RuntimeError, ValueError, OverflowError)
"""Errors of file systems for a missing file, a loop of links, an invalid name, or an offset beyond any file's size."""
FOR_GOOD = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError, ValueError)
"""Errors that a retry cannot cure."""
WAITS_S = (0.5, 2.0)
"""Seconds to wait before each retry of a remote place."""


def always() -> bool:
    return True


def is_remote(place: str | Path) -> bool:
    return "://" in str(place)


def _location(value: Any) -> Path | str:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError("a path or a URI such as s3://bucket/clips is needed")
    if is_remote(value) and "@" in str(value).partition("://")[2].partition("/")[0]:
        raise ValueError(
            "a URI with a user or a key in it, which would be printed. Give them as AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or as the store's own variables, in the environment"
        )
    return str(value) if is_remote(value) else absolute(Path(value))


Location = Annotated[Path | str, PlainValidator(_location), PlainSerializer(str)]


def filesystem(place: str | Path) -> tuple[fs.FileSystem, str]:
    """(file system of a place, the path in it)."""
    if not is_remote(place):
        return fs.LocalFileSystem(), str(place)
    scheme, _, rest = str(place).partition("://")
    bucket, _, path = rest.partition("/")
    there = _file_system(f"{scheme}://{bucket}")
    if isinstance(there, fs.PyFileSystem):
        return there, there.handler.fs._strip_protocol(str(place))
    return there, rest if scheme in ("s3", "gs", "gcs") else f"/{path}"


@lru_cache(maxsize=16)
def _file_system(root: str) -> fs.FileSystem:
    """Arrow's own file system where it has one, since it looks up a bucket's region only once; else fsspec's."""
    try:
        return fs.FileSystem.from_uri(root)[0]
    except pa.ArrowInvalid:
        from fsspec.core import url_to_fs

        return fs.PyFileSystem(fs.FSSpecHandler(url_to_fs(root)[0]))


def kind(place: str | Path) -> str:
    """The kind of a place: ``file``, ``folder``, or "" where nothing is there."""
    if not is_remote(place):
        return "file" if os.path.isfile(place) else "folder" if os.path.isdir(place) else ""
    there, path = filesystem(place)
    info = again(place, lambda: there.get_file_info(path))
    return {fs.FileType.File: "file", fs.FileType.Directory: "folder"}.get(info.type, "")


def again(place: str | Path, call: Callable[[], T]) -> T:
    """Result of ``call()``. Where a remote place fails, retry after each of ``WAITS_S``, and raise OSError at the
    end."""
    if not is_remote(place):
        return call()
    for wait in WAITS_S:
        with suppress(_Passing):
            return _remotely(call)
        time.sleep(wait)
    return _remotely(call)


class _Passing(OSError):
    """Error that a retry may cure; one class for the errors of all stores' clients."""


def _remotely(call: Callable[[], T]) -> T:
    try:
        return call()
    except FOR_GOOD:
        raise
    except Exception as error:  # the stores' clients raise errors without a common class
        raise _Passing(f"{type(error).__name__}: {error}") from error


def read(place: str | Path, limit: int | None = None) -> bytes:
    """The bytes of a file; OSError where the file has more than ``limit`` bytes."""

    def content() -> bytes:
        with open_at(place) as file:
            data = file.read() if limit is None else file.read(limit + 1)
        if limit is not None and len(data) > limit:
            raise OSError(f"it has more than {limit} bytes")
        return data

    return again(place, content)


def open_at(place: str | Path) -> BinaryIO:
    """A regular file open for reading, with ``seek`` and ``size``. OSError for other kinds of files: opening a pipe
    would wait for its writer."""
    there, path = filesystem(place)
    if (on_disk := _on_disk(place)) is not None and not stat.S_ISREG(os.stat(on_disk).st_mode):
        raise OSError("it is no regular file")
    file: BinaryIO = there.open_input_file(path)
    return file


def walk(place: str | Path, failed: Callable[[str, OSError], None], more: More = always) -> list[str]:
    """Relative names of all files below a folder, sorted. The walk does not follow links to folders, calls ``failed``
    for each folder that it cannot read, and on a local disk ends early once ``more`` is false."""
    top = _on_disk(place)
    if top is None:
        there, path = filesystem(place)
        infos = again(place, lambda: there.get_file_info(fs.FileSelector(path, recursive=True)))
        return sorted(posixpath.relpath(info.path, path) for info in infos if info.is_file)

    def report(error: OSError) -> None:
        failed(Path(error.filename).relative_to(top).as_posix(), error)

    below = ((root, name) for root, folders, files in os.walk(top, onerror=report) for name in folders + files)
    return sorted(Path(root, name).relative_to(top).as_posix() for root, name in takewhile(lambda _: more(), below))


def join(root: str | Path, name: str) -> str:
    """The place of ``name`` below ``root``; an absolute path or a URI stays as it is."""
    if is_remote(name) or not is_remote(root):
        return name if is_remote(name) else str(Path(root) / name)
    scheme, _, path = str(root).partition("://")
    return f"{scheme}://{posixpath.normpath(posixpath.join(path, name))}"


def parent(place: str | Path) -> str:
    scheme, separator, path = str(place).rpartition("://")
    return scheme + separator + str(PurePosixPath(path).parent)


def is_inside(root: str, place: str) -> bool:
    """True where a place, or the shard that contains it, lies below ``root``, with links followed. True also where an
    error prevents the answer: the decoder refuses such a file anyway."""
    member = _MEMBER.fullmatch(place)
    try:
        folder, path = _on_disk(root), _on_disk(member[1] if member else place)
        if folder is not None and path is not None:
            return os.path.realpath(path).startswith(os.path.realpath(folder).rstrip("/") + "/")
    except UNREADABLE:
        return not is_remote(place)
    if folder is not None or path is not None:
        return False
    (scheme, _, within), (other, _, name) = (str(p).partition("://") for p in (root, member[1] if member else place))
    # A web server reads %2e%2e as two dots.
    return scheme == other and posixpath.normpath(unquote(name)).startswith(posixpath.normpath(unquote(within)) + "/")


def _on_disk(place: str | Path) -> str | None:
    """The path of a place on this machine, which a URI may name as well; None for a remote place."""
    if not is_remote(place):
        return str(place)
    there, path = filesystem(place)
    handler = there.handler.fs if isinstance(there, fs.PyFileSystem) else None
    local = isinstance(there, fs.LocalFileSystem) or "file" in getattr(handler, "protocol", ())
    return path if local else None


def version(path: str) -> tuple[int, int] | None:
    """(size, modification time in ns) of a file, or of the shard that contains it; None where there is none."""
    member = _MEMBER.fullmatch(path)
    path = member[1] if member else path
    try:
        if is_remote(path):
            there, inner = filesystem(path)
            remote = again(path, lambda: there.get_file_info(inner))
            return (remote.size, remote.mtime_ns or 0) if remote.is_file else None
        status = os.stat(path)
        return status.st_size, status.st_mtime_ns
    except UNREADABLE:
        return None


@contextmanager
def local(path: str) -> Iterator[str]:
    """Yield a path on this machine with the content of ``path``: the file itself, or a copy that is deleted after the
    block. BadClip names ``path``."""
    member = _MEMBER.fullmatch(path)
    if not is_remote(path) and not member:
        yield path
        return
    name = member[4] if member else path
    with tempfile.TemporaryDirectory(prefix="clip-") as folder:
        copy = Path(folder) / f"clip{PurePosixPath(name).suffix}"
        try:
            again(path, lambda: _copy(path, copy))
        except UNREADABLE as error:
            raise BadClip(path, f"cannot be read ({error})") from error
        try:
            yield str(copy)
        except BadClip as bad:
            raise BadClip(path, bad.reason) from bad


def _copy(path: str, copy: Path) -> None:
    """Copy all bytes of a file, or of a shard's member, into ``copy``."""
    member = _MEMBER.fullmatch(path)
    with open_at(member[1] if member else path) as file, copy.open("wb") as out:
        size: int = int(member[3]) if member else file.size()  # type: ignore[attr-defined]
        file.seek(int(member[2]) if member else 0)
        remaining = size
        while remaining and (piece := file.read(min(PIECE, remaining))):
            out.write(piece)
            remaining -= len(piece)
    if remaining:
        raise OSError(f"cut off: only {size - remaining} of its {size} bytes were read")
