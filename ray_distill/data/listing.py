"""What a source names: every clip and prompt with its caption, before a file is opened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv, parquet

from ray_distill.data.source import Dataset, Source

VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".gif"}


@dataclass(frozen=True)
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
        if part.kind == "videos" and not part.place.is_dir():
            raise ValueError(f"{key} = {part.place}: no such folder. It holds videos, each with a .txt beside it")
        if part.kind == "prompts" and not part.place.is_file():
            raise ValueError(f"{key} = {part.place}: no such file. It holds a prompt a line")
        if part.kind == "manifest" and not part.place.is_file():
            raise ValueError(
                f"{key} = {part.place}: no such file. It holds JSON lines such as "
                '{"video": "clips/0.mp4", "caption": "a red kite"}; the quick start\'s is made by '
                "python examples/moving_digits.py data/digits"
            )


def entries(source: Source) -> list[Entry]:
    """All of a source, in the order of its datasets; ValueError where a dataset is missing, unreadable or empty."""
    check(source)
    found: list[Entry] = []
    for number, part in enumerate(source.parts):
        one = list(_READERS[part.kind](source, number, part))
        if not one:
            raise ValueError(f"data.{part.kind} = {part.place}: nothing in it")
        found += one
    return found


def _folder(source: Source, number: int, part: Dataset) -> Iterator[Entry]:
    """Symbolic links to files are followed, those to folders are not: a loop has no end."""
    for path in sorted(path for path in part.place.rglob("*") if path.suffix.lower() in VIDEOS):
        sidecar, caption = path.with_suffix(".txt"), part.caption
        if caption is None and part.captions == "filename":
            caption = path.stem.replace("_", " ")
        elif caption is None and sidecar.is_file():
            caption = " ".join(sidecar.read_text(errors="replace").split())
        error = "" if caption else f"{path}: no caption; write it into {sidecar.name} beside it"
        yield Entry(number, str(path.relative_to(part.place)), str(path), caption or "", error)


def _manifest(source: Source, number: int, part: Dataset) -> Iterator[Entry]:
    root = part.place.parent
    known: set[str] = set()
    for row in _rows(part):
        known |= row.keys()
        video, caption = row.get(part.video_column), part.caption or row.get(part.caption_column)
        if not (isinstance(video, str) and video and isinstance(caption, str)):
            error = f"{video}: the line needs both a {part.video_column} and a {part.caption_column}"
            yield Entry(number, str(video), "", str(caption), error)
            continue
        path, outside = _inside(root, video)
        error = f"{video}: it lies outside the manifest's folder {root}; data.allow_outside=true allows it"
        yield Entry(number, video, path, caption, error if outside and not source.allow_outside else "")
    needed = {part.video_column} | ({part.caption_column} if part.caption is None else set())
    if known and not known >= needed:
        raise ValueError(
            f"data.manifest = {part.place}: each line needs {' and '.join(map(repr, sorted(needed, reverse=True)))}; "
            f"it has {sorted(known)}. Other names: datasets with video_column and caption_column"
        )


def _inside(root: Path, video: str) -> tuple[str, bool]:
    """The path of ``video``, and whether it leads outside ``root``."""
    try:
        path = (root / video).resolve()
        return str(path), not path.is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name too long, a zero byte
        return str(root / video), False


def _prompts(source: Source, number: int, part: Dataset) -> Iterator[Entry]:
    plain = part.place.suffix not in (".jsonl", ".json")
    for line, text in enumerate(part.place.read_text().splitlines(), 1):
        value: Any = text.strip() if plain or not text.strip() else _json(part, line, text)
        caption = value.get(part.caption_column) if isinstance(value, dict) else value
        if isinstance(caption, str) and caption:
            yield Entry(number, "", "", caption)
        elif value:
            raise ValueError(f"data.prompts = {part.place}, line {line}: no text under {part.caption_column!r}")


def _rows(part: Dataset) -> Iterator[dict[str, Any]]:
    path, kind = part.place, part.place.suffix.lower()
    try:
        if kind == ".parquet":
            yield from parquet.read_table(path).to_pylist()
        elif kind == ".csv":
            texts = csv.ConvertOptions(column_types={part.video_column: pa.string(), part.caption_column: pa.string()})
            # A caption may go over several lines, within quotes.
            lines = csv.ParseOptions(newlines_in_values=True)
            yield from csv.read_csv(path, parse_options=lines, convert_options=texts).to_pylist()
        elif kind in (".jsonl", ".json"):
            with path.open() as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield _json(part, number, line)
        else:
            raise ValueError(f"data.manifest = {path}: a manifest is .jsonl, .csv or .parquet, not {kind or 'that'}")
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise ValueError(f"data.manifest = {path}: not readable as {kind}: {error}") from None


def _json(part: Dataset, line: int, text: str) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"data.{part.kind} = {part.place}, line {line}: not valid JSON: {error}") from None
    if part.kind == "manifest" and not isinstance(value, dict):
        raise ValueError(f"data.manifest = {part.place}, line {line}: one JSON object a line, not {text.strip()[:60]}")
    return value


_READERS = {"videos": _folder, "manifest": _manifest, "prompts": _prompts}
