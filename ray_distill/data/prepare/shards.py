"""List the clips and captions of tar shards as WebDataset and video2dataset pack them."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import BinaryIO

from ray_distill.data.prepare.captions import Captions, read_caption
from ray_distill.data.read.remote import SLICE, More, always, open_at

VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".gif"}
TEXTS = (".txt", ".json")
PACKED = (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".tzst", ".lz4")
MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")
BLOCK = 512
TAIL = 1 << 20
"""Bytes to read behind the end mark, since tar fills up its last record with zeros."""


@dataclass(frozen=True)
class Clip:
    """A video of a shard: the ``name`` of its member, its ``place`` for ``remote.local``, and its captions. ``fault``
    is the reason why it cannot be used; a fault of the whole shard has no name."""

    name: str
    place: str = ""
    captions: Captions = ()
    fault: str = ""


@dataclass
class _Members:
    """Videos, captions and faults of a shard, by the names of its members."""

    videos: dict[str, str] = field(default_factory=dict)
    texts: dict[str, tuple[Captions, str]] = field(default_factory=dict)
    faults: list[Clip] = field(default_factory=list)


def is_shard(name: str) -> bool:
    """True for a tar shard, and for a compressed one, which is listed as a fault."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    return bool(suffixes) and (".tar" in (suffixes[-1], *suffixes[-2:-1]) or suffixes[-1] in (".tgz", ".tbz2", ".txz"))


def clips_in(tar: str, column: str, choices: bool, one_caption: bool, more: More = always) -> list[Clip]:
    """The videos of a shard in its order, and a fault for each member that cannot be used. ``column`` is the caption's
    key in a .json; with ``choices`` each line of a .txt is a caption; with ``one_caption`` no captions are read. Reads
    members until ``more`` is false."""
    with open_at(tar) as file:
        packed = tar.lower().endswith(PACKED) or file.read(6).startswith(MAGIC)
        if packed or not tar.lower().endswith(".tar"):
            return [Clip("", fault="members are read by their offsets in a plain .tar; decompress it, or name it .tar")]
        members = _members(tar, file, column, choices, more)
    if one_caption:
        clips = [Clip(name, place) for name, place in members.videos.items()] + members.faults
    else:
        clips = [*_with_captions(members), *_alone(members), *members.faults]
    return clips or [Clip("", fault="no video in it")]  # a failing disk may return a file of zeros


def _members(tar: str, file: BinaryIO, column: str, choices: bool, more: More) -> _Members:
    members = _Members()
    size: int = file.size()  # type: ignore[attr-defined]
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as shard:
            for member in shard:
                if not more():
                    return members
                _take(members, tar, shard, member, size, column, choices)
            fault = _after(file, shard.offset)
    except (tarfile.TarError, ValueError) as error:
        fault = f"cut off or damaged ({error})"
    if fault:
        members.faults.append(Clip("", fault=f"{fault}: later members are left out"))
    return members


def _take(
    members: _Members, tar: str, shard: tarfile.TarFile, member: tarfile.TarInfo, size: int, column: str, choices: bool
) -> None:
    """Add a member's place or captions, or its fault, to ``members``."""
    name, suffix = member.name, posixpath.splitext(member.name)[1].lower()
    if suffix not in VIDEOS and suffix not in TEXTS:
        return
    fault = ""
    if not member.isreg() or member.issparse():
        fault = f"it is a link to {member.linkname}" if member.linkname else "it is no regular file"
    elif member.offset_data + member.size > size:
        fault = "it is cut off, as its shard is"
    if suffix in VIDEOS:
        if name in members.videos:
            members.faults.append(Clip(name, fault="a later member has the same name"))
        if fault:
            members.faults.append(Clip(name, fault=fault))
        else:
            members.videos[name] = SLICE.join(map(str, (tar, member.offset_data, member.size, name)))
    elif fault:
        members.texts[name] = (), f"{name}: {fault}"
    else:
        content = shard.extractfile(member)
        assert content is not None
        members.texts[name] = read_caption(name, content, column, choices)


def _after(file: BinaryIO, offset: int) -> str:
    """The fault behind the last member, "" if none: tarfile takes an unreadable header for the archive's end."""
    file.seek(offset)
    mark = file.read(BLOCK)
    if mark != bytes(BLOCK):
        return f"cut off or damaged at byte {offset}"
    return "it continues behind its end mark, as two joined archives do" if file.read(TAIL).strip(b"\0") else ""


def _stem(name: str) -> str:
    return posixpath.splitext(posixpath.normpath(name))[0]


def _key(name: str) -> str:
    """WebDataset's key of a sample: the name up to its first dot."""
    folder, _, file = posixpath.normpath(name).rpartition("/")
    return f"{folder}/{file.partition('.')[0]}"


def _with_captions(members: _Members) -> Iterator[Clip]:
    """Each video with the captions under its own name, else with its sample's captions that belong to no other
    video."""
    owned = {_stem(video) for video in members.videos}
    samples: dict[str, list[str]] = {}
    for text in members.texts:
        samples.setdefault(_key(text), []).append(text)
    for name, place in members.videos.items():
        names = _texts_of(_stem(name), samples.get(_key(name), []), owned)
        if len({_stem(text) for text in names}) > 1:
            yield Clip(name, place, fault=f"which of {', '.join(sorted(names))} is its caption?")
        else:
            yield Clip(name, place, *_first(names, members.texts))


def _texts_of(stem: str, texts: Sequence[str], owned: Set[str]) -> list[str]:
    """The texts of a sample that may belong to its video ``stem``; several stems mean that the choice is unclear."""
    free = {_stem(text) for text in texts} - owned
    shorter = sorted((other for other in free if stem.startswith(f"{other}.")), key=len)
    stems = {stem} if any(_stem(text) == stem for text in texts) else set(shorter[-1:]) or free
    return [text for text in texts if _stem(text) in stems]


def _first(names: Sequence[str], texts: Mapping[str, tuple[Captions, str]]) -> tuple[Captions, str]:
    """(captions, fault): the first captions that exist; a .txt goes before a .json."""
    names = sorted(names, key=lambda name: not name.lower().endswith(".txt"))
    captions = next((texts[name][0] for name in names if texts[name][0]), ())
    faults = [texts[name][1] for name in names if texts[name][1]]
    return captions, "" if captions else f"no caption in its shard{f' ({faults[0]})' if faults else ''}"


def _alone(members: _Members) -> Iterator[Clip]:
    """A fault for each sample whose video is missing."""
    keys = {_key(clip.name) for clip in members.faults if clip.name} | {_key(name) for name in members.videos}
    for name in members.texts:
        if _key(name) not in keys:
            keys.add(_key(name))
            yield Clip(name, fault="no video beside it in its shard")
