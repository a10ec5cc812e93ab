"""Files wherever they are: on this machine, in an object store (s3://, gs:// and what fsspec knows), in a tar shard.

A place is a path or a URI. A member of a shard is ``shard.tar::offset::size::name``.
"""

from __future__ import annotations

import os
import posixpath
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, BinaryIO

import pyarrow as pa
from pyarrow import fs
from pydantic import PlainSerializer, PlainValidator

from ray_distill.data.cut import BadClip

SLICE = "::"
_MEMBER = re.compile(r"(.*\.tar)::(\d+)::(\d+)::(.*)", re.DOTALL)
PIECE = 16 << 20
UNREADABLE = (OSError, pa.ArrowException, RuntimeError, ValueError)
"""What file systems raise where a file is not there, or where a link loops or a name is none."""


def is_remote(place: str | Path) -> bool:
    return "://" in str(place)


def home(path: Path) -> Path:
    """``path`` with the folder of a user in place of its ``~``; ValueError where there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: {path.parts[0]} is no user's home on this machine; write the whole path") from None


def _location(value: Any) -> Path | str:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError("a path or a URI such as s3://bucket/clips is needed")
    if is_remote(value) and "@" in str(value).partition("://")[2].partition("/")[0]:
        raise ValueError(
            "a URI with a user or a key in it: they would be seen. Give them as AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or as the store's own variables, in the environment"
        )
    return str(value) if is_remote(value) else home(Path(value)).absolute()  # workers run in directories of Ray's own


Location = Annotated[Path | str, PlainValidator(_location), PlainSerializer(str)]


def filesystem(place: str | Path) -> tuple[fs.FileSystem, str]:
    """The file system of a place, and the path in it."""
    if not is_remote(place):
        return fs.LocalFileSystem(), str(place)
    scheme, _, rest = str(place).partition("://")
    bucket, _, path = rest.partition("/")
    there = _opened(f"{scheme}://{bucket}")
    if isinstance(there, fs.PyFileSystem):
        return there, there.handler.fs._strip_protocol(str(place))
    return there, rest if scheme in ("s3", "gs", "gcs") else f"/{path}"


@lru_cache(maxsize=16)
def _opened(root: str) -> fs.FileSystem:
    """Arrow's own file system, which asks for a bucket's region once; fsspec's for all schemes that it has none for."""
    try:
        return fs.FileSystem.from_uri(root)[0]
    except pa.ArrowInvalid:
        from fsspec.core import url_to_fs

        return fs.PyFileSystem(fs.FSSpecHandler(url_to_fs(root)[0]))


def kind(place: str | Path) -> str:
    """``file``, ``folder``, or "" where neither is."""
    if not is_remote(place):
        return "file" if os.path.isfile(place) else "folder" if os.path.isdir(place) else ""
    there, path = filesystem(place)
    told = there.get_file_info(path).type
    return {fs.FileType.File: "file", fs.FileType.Directory: "folder"}.get(told, "")


def read(place: str | Path) -> bytes:
    there, path = filesystem(place)
    with there.open_input_stream(path) as file:
        data: bytes = file.read()
        return data


def open_at(place: str | Path) -> BinaryIO:
    """For reading, with ``seek``."""
    there, path = filesystem(place)
    file: BinaryIO = there.open_input_file(path)
    return file


def walk(place: str | Path) -> list[str]:
    """The names, relative to it, of all that is below a folder, sorted. Links to folders are not followed."""
    if not is_remote(place):
        return sorted(path.relative_to(place).as_posix() for path in Path(place).rglob("*"))
    there, path = filesystem(place)
    found = there.get_file_info(fs.FileSelector(path, recursive=True))
    return sorted(posixpath.relpath(told.path, path) for told in found if told.is_file)


def join(root: str | Path, name: str) -> str:
    """``name`` below ``root``, as a place; an absolute name or URI is itself."""
    if is_remote(name) or not is_remote(root):
        return name if is_remote(name) else str(Path(root) / name)
    scheme, _, path = str(root).partition("://")
    return f"{scheme}://{posixpath.normpath(posixpath.join(path, name))}"


def parent(place: str | Path) -> str:
    scheme, separator, path = str(place).rpartition("://")
    return scheme + separator + str(PurePosixPath(path).parent)


def is_inside(root: str, place: str) -> bool:
    """Whether a place is below ``root``, links followed. What cannot be found out is for the decoder to refuse."""
    if is_remote(root) or is_remote(place):
        return place.startswith(root.rstrip("/") + "/")
    try:
        return Path(place).resolve().is_relative_to(Path(root).resolve())
    except UNREADABLE:
        return True


def version(path: str) -> tuple[int, int] | None:
    """Size and time of a file, or of the shard that it is in; None where it is not there."""
    member = _MEMBER.fullmatch(path)
    path = member[1] if member else path
    try:
        if is_remote(path):
            there, inner = filesystem(path)
            remote = there.get_file_info(inner)
            return (remote.size, remote.mtime_ns or 0) if remote.is_file else None
        told = os.stat(path)
        return told.st_size, told.st_mtime_ns
    except UNREADABLE:
        return None


@contextmanager
def local(path: str) -> Iterator[str]:
    """A path on this machine with the content of ``path``: itself, or a copy that goes away. BadClip names ``path``."""
    member = _MEMBER.fullmatch(path)
    if not is_remote(path) and not member:
        yield path
        return
    shard, offset, size, name = member.groups() if member else (path, "0", "-1", path)
    with tempfile.TemporaryDirectory(prefix="clip-") as folder:
        copy = Path(folder) / f"clip{PurePosixPath(name).suffix}"
        try:
            with open_at(shard) as file, copy.open("wb") as out:
                file.seek(int(offset))
                left = int(size)
                while left and (piece := file.read(PIECE if left < 0 else min(PIECE, left))):
                    out.write(piece)
                    left -= len(piece) if left > 0 else 0
        except UNREADABLE as error:
            raise BadClip(path, f"cannot be read ({error})") from error
        try:
            yield str(copy)
        except BadClip as bad:
            raise BadClip(path, bad.reason) from bad
