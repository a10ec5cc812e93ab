"""What a source names: every clip and prompt with its caption, before a video is opened."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
from pyarrow import csv, parquet

from ray_distill.data.remote import SLICE, UNREADABLE, is_inside, join, kind, open_at, parent, read, walk
from ray_distill.data.source import Dataset, Source
from ray_distill.data.tables import rows_of, table_of

VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".gif"}
WANTED = {
    "manifest": 'It holds JSON lines such as {"video": "clips/0.mp4", "caption": "a red kite"}; the quick start\'s is '
    "made by python examples/moving_digits.py data/digits",
    "videos": "It holds videos, each with a .txt beside it",
    "shards": "It is a tar file, or a folder of them",
    "prompts": "It holds a prompt a line",
}


LISTED = pa.schema([("dataset", pa.int64()), *((name, pa.string()) for name in ("video", "path", "caption", "error"))])


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a dataset (its number ``dataset``): ``video`` as it is named there, "" where it is a prompt alone,
    and ``path``. ``error`` says why it cannot be used, "" where nothing speaks against it yet."""

    dataset: int
    video: str
    path: str
    caption: str
    error: str = ""


def check(source: Source) -> None:
    """ValueError where a dataset's file or folder is not there."""
    for number, part in enumerate(source.parts):
        key = f"data.{part.kind}" if not source.datasets else f"data.datasets.{number}.{part.kind}"
        try:
            found = kind(part.place)
        except UNREADABLE as error:
            raise ValueError(f"{key} = {part.place}: cannot be looked at ({error})") from None
        wanted = {"videos": ("folder",), "shards": ("file", "folder")}.get(part.kind, ("file",))
        if found not in wanted:
            raise ValueError(f"{key} = {part.place}: no such {' or '.join(wanted)}. {WANTED[part.kind]}")


def listing(source: Source) -> pa.Table:
    """All ``entries`` of a source, a row each."""
    return table_of(map(asdict, entries(source)), LISTED)


def entries(source: Source) -> Iterator[Entry]:
    """All of a source, in the order of its datasets; ValueError where a dataset is missing, unreadable or empty."""
    check(source)
    for number, part in enumerate(source.parts):
        empty = True
        try:
            for entry in _READERS[part.kind](source, number, part):
                empty = False
                yield _in_utf8(entry)
        except (pa.ArrowException, UnicodeDecodeError, tarfile.TarError) as error:
            raise ValueError(f"data.{part.kind} = {part.place}: not readable: {error}") from None
        if empty:
            raise ValueError(f"data.{part.kind} = {part.place}: nothing in it")


def _in_utf8(entry: Entry) -> Entry:
    """Names on a disk may be any bytes and JSON may hold half a character; a table cannot."""
    texts = {name: getattr(entry, name) for name in ("video", "path", "caption")}
    try:
        "".join(texts.values()).encode()
        return entry
    except UnicodeEncodeError:
        shown = {name: text.encode(errors="backslashreplace").decode() for name, text in texts.items()}
        return Entry(entry.dataset, **shown, error=f"{shown['video']}: its name or caption is not UTF-8; rename it")


def _folder(source: Source, number: int, part: Dataset) -> Iterator[Entry]:
    names = walk(part.place)
    there = set(names)
    for name in names:
        path = PurePosixPath(name)
        if path.suffix.lower() not in VIDEOS:
            continue
        sidecar, caption = path.with_suffix(".txt"), part.caption
        if caption is None and part.captions == "filename":
            caption = path.stem.replace("_", " ")
        elif caption is None and sidecar.as_posix() in there:
            caption = _text(read(join(part.place, sidecar.as_posix())))
        full = join(part.place, name)
        error = "" if caption else f"{full}: no caption; write it into {sidecar.name} beside it"
        yield Entry(number, name, full, caption or "", error)


def _shards(source: Source, number: int, part: Dataset) -> Iterator[Entry]:
    """Members that share a name up to its first dot belong together."""
    folder = kind(part.place) == "folder"
    tars = (
        [join(part.place, name) for name in walk(part.place) if name.endswith(".tar")] if folder else [str(part.place)]
    )
    for tar in tars:
        videos: dict[str, tuple[str, str]] = {}
        captions: dict[str, str] = {}
        with open_at(tar) as file, tarfile.open(fileobj=file, mode="r:") as shard:
            for member in shard:
                path = PurePosixPath(member.name)
                key = f"{path.parent}/{path.name.partition('.')[0]}"
                if member.isfile() and path.suffix.lower() in VIDEOS:
                    inside = SLICE.join(map(str, (tar, member.offset_data, member.size, member.name)))
                    videos[key] = f"{PurePosixPath(tar).name}/{member.name}", inside
                elif member.isfile() and path.suffix in (".txt", ".json") and (content := shard.extractfile(member)):
                    captions[key] = _caption(part, path.suffix, content.read())
        for key, (name, inside) in videos.items():
            caption = part.caption or captions.get(key, "")
            yield Entry(number, name, inside, caption, "" if caption else f"{name}: no caption in its shard")


def _manifest(source: Source, number: int, part: Dataset) -> Iterator[Entry]:
    root = parent(part.place) if part.root is None else str(part.root)
    known: set[str] = set()
    for row in _rows(part):
        known |= row.keys()
        video, caption = row.get(part.video_column), part.caption or row.get(part.caption_column)
        if not (isinstance(video, str) and video and isinstance(caption, str)):
            error = f"{video}: the line needs both a {part.video_column} and a {part.caption_column}"
            yield Entry(number, str(video), "", str(caption), error)
            continue
        path = join(root, video)
        error = f"{video}: it lies outside the manifest's folder {root}; data.allow_outside=true allows it"
        yield Entry(number, video, path, caption, "" if source.allow_outside or is_inside(root, path) else error)
    needed = {part.video_column} | ({part.caption_column} if part.caption is None else set())
    if known and not known >= needed:
        raise ValueError(
            f"data.manifest = {part.place}: each line needs {' and '.join(map(repr, sorted(needed, reverse=True)))}; "
            f"it has {sorted(known)}. Other names: datasets with video_column and caption_column"
        )


def _prompts(source: Source, number: int, part: Dataset) -> Iterator[Entry]:
    plain = not str(part.place).endswith((".jsonl", ".json"))
    for line, text in enumerate(_lines(part), 1):
        value: Any = text.strip() if plain or not text.strip() else _json(part, line, text)
        caption = value.get(part.caption_column) if isinstance(value, dict) else value
        if isinstance(caption, str) and caption:
            yield Entry(number, "", "", caption)
        elif value:
            raise ValueError(f"data.prompts = {part.place}, line {line}: no text under {part.caption_column!r}")


def _rows(part: Dataset) -> Iterator[dict[str, Any]]:
    suffix = PurePosixPath(str(part.place)).suffix.lower()
    if suffix == ".parquet":
        yield from rows_of(parquet.read_table(pa.BufferReader(read(part.place))))
    elif suffix == ".csv":
        texts = csv.ConvertOptions(column_types={part.video_column: pa.string(), part.caption_column: pa.string()})
        # A caption may go over several lines, within quotes.
        lines = csv.ParseOptions(newlines_in_values=True)
        content = pa.BufferReader(read(part.place))
        yield from rows_of(csv.read_csv(content, parse_options=lines, convert_options=texts))
    elif suffix in (".jsonl", ".json"):
        for number, line in enumerate(_lines(part), 1):
            if line.strip():
                yield _json(part, number, line)
    else:
        raise ValueError(
            f"data.manifest = {part.place}: a manifest is .jsonl, .csv or .parquet, not {suffix or 'that'}"
        )


def _lines(part: Dataset) -> Iterator[str]:
    """A caption may hold other signs that Python takes for the end of a line."""
    with open_at(part.place) as file:
        for line in io.TextIOWrapper(file, encoding="utf-8", newline="\n"):
            yield line.removesuffix("\n")


def _json(part: Dataset, line: int, text: str) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"data.{part.kind} = {part.place}, line {line}: not valid JSON: {error}") from None
    if part.kind == "manifest" and not isinstance(value, dict):
        raise ValueError(f"data.manifest = {part.place}, line {line}: one JSON object a line, not {text.strip()[:60]}")
    return value


def _caption(part: Dataset, suffix: str, content: bytes) -> str:
    """Of a shard's member; "" where there is none."""
    if suffix == ".txt":
        return _text(content)
    try:
        found = json.loads(content)
    except ValueError:
        return ""
    caption = found.get(part.caption_column) if isinstance(found, dict) else None
    return caption if isinstance(caption, str) else ""


def _text(content: bytes) -> str:
    return " ".join(content.decode(errors="replace").split())


_READERS = {"videos": _folder, "shards": _shards, "manifest": _manifest, "prompts": _prompts}
