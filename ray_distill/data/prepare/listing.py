"""List the clips and prompts of a source with their captions, without opening a video."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from ray_distill.data.prepare.captions import Captions, captions_of, read_caption
from ray_distill.data.prepare.names import Names
from ray_distill.data.prepare.rows import TABLES, Row, rows_in
from ray_distill.data.prepare.shards import VIDEOS, Clip, clips_in, is_shard
from ray_distill.data.read.remote import UNREADABLE, More, again, always, is_inside, join, kind, open_at, parent, walk
from ray_distill.data.source import Dataset, Source
from ray_distill.data.store.tables import table_of
from ray_distill.plaintext import json_of, text_of

CONTENTS = {
    "manifest": 'It holds JSON lines such as {"video": "clips/0.mp4", "caption": "a red kite"}; the quick start\'s is '
    "made by python examples/moving_digits.py data/digits",
    "videos": "It holds videos, each with a .txt beside it",
    "shards": "It is a tar file, or a folder of them",
    "prompts": "It holds a prompt a line",
    "latents": "It is a folder of FastVideo's parquet, searched with all its subfolders, or one such file",
}


LISTED = pa.schema(
    [
        ("dataset", pa.int64()),
        *((name, pa.string()) for name in ("video", "path", "caption", "error", "others", "image")),
    ]
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A clip or a prompt of the dataset number ``dataset``. ``video`` is the name that the dataset gives, "" for a
    prompt; ``path`` is the video's path. ``error`` says why the entry cannot be used; "" so far. ``others`` is a JSON
    list of further captions: each sample draws one of them or ``caption``; "" without any. ``image`` is the path of the
    entry's picture, "" where it has none of its own."""

    dataset: int
    video: str
    path: str
    caption: str
    error: str = ""
    others: str = ""
    image: str = ""


def _entry(number: int, video: str, path: str, captions: Captions, error: str = "", image: str = "") -> Entry:
    caption, *others = captions or ("",)
    return Entry(number, video, path, caption, error, json.dumps(others) if others else "", image)


def check(source: Source) -> None:
    """ValueError where a dataset's file or folder does not exist."""
    for number, part in enumerate(source.parts):
        where = _where(source, number)
        try:
            there = kind(part.place)
        except UNREADABLE as error:
            raise ValueError(f"{where}: cannot be accessed ({error})") from None
        kinds = {"videos": ("folder",), "shards": ("file", "folder"), "latents": ("file", "folder")}.get(
            part.kind, ("file",)
        )
        if there not in kinds:
            if there == "folder":
                raise ValueError(
                    f"{where}: this is a folder; of videos, name it by data.datasets: [{{videos: FOLDER}}]"
                )
            missing = "this is a file, not a folder" if there else f"no such {' or '.join(kinds)}"
            raise ValueError(f"{where}: {missing}. {CONTENTS[part.kind]}")


def listing(source: Source) -> pa.Table:
    """A table of all ``entries`` of a source."""
    return table_of(map(asdict, entries(source)), LISTED)


def entries(source: Source) -> Iterator[Entry]:
    """The entries of all datasets of a source, in order; ValueError where a dataset is missing, unreadable or empty."""
    check(source)
    names = Names()
    for number in range(len(source.parts)):
        yield from map(names, entries_of(source, number))


def entries_of(source: Source, number: int, more: More = always) -> Iterator[Entry]:
    """The entries of dataset ``number``, until ``more`` is false; ValueError where the dataset is unreadable or
    empty."""
    part, where, empty = source.parts[number], _where(source, number), True
    try:
        for entry in _READERS[part.kind](source, number, part, more):
            empty = False
            yield _in_utf8(entry)
    except (pa.ArrowException, OSError, RuntimeError) as error:
        raise ValueError(f"{where}: not readable: {error}") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if empty and more():
        raise ValueError(f"{where}: nothing in it. {CONTENTS[part.kind]}")


def _where(source: Source, number: int) -> str:
    """A dataset's key and place, for messages."""
    part = source.parts[number]
    return f"data.{f'datasets.{number}.' if source.datasets else ''}{part.kind} = {part.place}"


def _in_utf8(entry: Entry) -> Entry:
    """``entry`` in valid UTF-8, as a table needs it: names on a disk may be any bytes, and JSON may hold half a
    character."""
    texts = {name: getattr(entry, name) for name in ("video", "path", "caption", "error", "image")}
    try:
        "".join([*texts.values(), *json.loads(entry.others or "[]")]).encode()
        return entry
    except UnicodeEncodeError:
        escaped = {name: text.encode(errors="backslashreplace").decode() for name, text in texts.items()}
        escaped["error"] = f"{escaped['video']}: its name or caption is not UTF-8; rename it"
        return Entry(entry.dataset, **escaped)


def _folder(source: Source, number: int, part: Dataset, more: More) -> Iterator[Entry]:
    unread: dict[str, OSError] = {}
    names = walk(part.place, unread.__setitem__, more)
    yield from _unread(number, unread)
    sidecars = {  # a .TXT counts too; where both exist, .txt sorts later and wins
        path.with_suffix(".txt").as_posix(): name
        for path, name in ((PurePosixPath(name), name) for name in names)
        if path.suffix.lower() == ".txt"
    }
    for name in names:
        path = PurePosixPath(name)
        if path.suffix.lower() not in VIDEOS:
            continue
        full, error = join(part.place, name), ""
        sidecar = path.with_suffix(".txt")
        captions: Captions = () if part.caption is None else (part.caption,)
        if part.caption is None and part.captions == "filename":
            captions = captions_of(path.stem.replace("_", " "))
        elif part.caption is None and sidecar.as_posix() in sidecars:
            captions, error = _sidecar(part, sidecars[sidecar.as_posix()])
        error = error or ("" if captions else f"no caption; write it into {sidecar.name} beside it")
        yield _entry(number, name, full, captions, error and f"{full}: {error}")


def _sidecar(part: Dataset, name: str) -> tuple[Captions, str]:
    place, short = join(part.place, name), PurePosixPath(name).name

    def content() -> tuple[Captions, str]:
        with open_at(place) as file:
            return read_caption(short, file, part.caption_column, part.captions == "lines")

    try:
        return again(place, content)
    except UNREADABLE as error:
        return (), f"its caption {short} cannot be read ({error})"


def _shards(source: Source, number: int, part: Dataset, more: More) -> Iterator[Entry]:
    tars, unread = _files(part.place, is_shard, more)
    yield from _unread(number, unread)
    column, choices, own = part.caption_column, part.captions == "lines", part.caption
    for name, tar in tars.items():
        try:
            clips = again(tar, partial(clips_in, tar, column, choices, own is not None, more))
        except UNREADABLE as error:
            clips = [Clip("", fault=f"cannot be read ({error})")]
        for clip in clips:
            video = f"{name}/{clip.name}" if clip.name else name
            captions = clip.captions if own is None else (own,)
            yield _entry(number, video, clip.place, captions, clip.fault and f"{video}: {clip.fault}")


def _latents(source: Source, number: int, part: Dataset, more: More) -> Iterator[Entry]:
    """One entry for each parquet file, whose rows are looked into later."""
    files, unread = _files(part.place, lambda name: PurePosixPath(name).suffix.lower() == ".parquet", more)
    yield from _unread(number, unread)
    yield from (Entry(number, name, path, "") for name, path in files.items())


def _files(place: Path | str, fits: Callable[[str], bool], more: More) -> tuple[dict[str, str], dict[str, OSError]]:
    """(places of files by name: ``place`` itself, or those below the folder whose names ``fits`` takes; the errors of
    folders that cannot be read)."""
    unread: dict[str, OSError] = {}
    if kind(place) != "folder":
        return {PurePosixPath(str(place)).name: str(place)}, unread
    names = walk(place, unread.__setitem__, more)
    return {name: join(place, name) for name in names if fits(name)}, unread


def _unread(number: int, folders: Mapping[str, OSError]) -> Iterator[Entry]:
    for name, error in folders.items():
        yield Entry(number, name, "", "", f"{name}: a folder that cannot be read ({error.strerror})")


def _manifest(source: Source, number: int, part: Dataset, more: More) -> Iterator[Entry]:
    if (suffix := PurePosixPath(str(part.place)).suffix.lower()) not in TABLES:
        raise ValueError(f"a manifest is .jsonl, .csv or .parquet, not {suffix or 'that'}")
    root, own = parent(part.place) if part.root is None else str(part.root), part.caption
    columns = [part.video_column] + ([part.caption_column] if own is None else [])
    for row in _rows(part, columns, more):
        video, fault = row.value.get(part.video_column), row.fault
        captions: Captions = () if own is None else (own,)
        named = isinstance(video, str) and bool(video)
        if not fault and own is None:
            captions, fault = _captions(row.value.get(part.caption_column))
        if not fault and not (named and captions):
            missing = f"the line needs both a {part.video_column} and a {part.caption_column}"
            fault = missing if captions else f"no caption: {missing}"
        path = join(root, video) if named else ""
        if not fault and not source.allow_outside and not is_inside(root, path):
            fault = f"it lies outside the manifest's folder {root}; data.allow_outside=true allows it"
        image, wrong = _image(source, part, root, row)
        fault = fault or wrong
        error = f"{video}: {fault} ({row.where})" if named else f"{_title(part, row)}: {fault}"
        yield _entry(number, video if named else _title(part, row), path, captions, error if fault else "", image)


def _image(source: Source, part: Dataset, root: str, row: Row) -> tuple[str, str]:
    """(path of a row's picture, "" where it has none; fault, "" if none)."""
    name = row.value.get(part.image_column) if part.image_column else None
    if name is None or name == "":
        return "", ""
    if not isinstance(name, str):
        return "", f"{part.image_column} is a path, not {type(name).__name__}"
    path = join(root, name)
    if not source.allow_outside and not is_inside(root, path):
        return "", f"{name} lies outside the folder {root}; data.allow_outside=true allows it"
    return path, ""


def _prompts(source: Source | None, number: int, part: Dataset, more: More) -> Iterator[Entry]:
    for row in _rows(part, [part.caption_column], more):
        captions, fault = _captions(row.value.get(part.caption_column))
        if len(captions) > 1 and part.teacher is not None:
            fault = "the teacher makes a video of one caption; give each a line of its own"
        fault = row.fault or fault or ("" if captions else f"no caption: no text under {part.caption_column!r}")
        image = ""
        if part.image_column is not None and source is not None and not fault:
            image, fault = _image(source, part, parent(part.place), row)
            fault = fault or ("" if image else f"no picture under {part.image_column!r}")
        title = _title(part, row) if fault else ""
        yield _entry(number, title, "", captions, fault and f"{title}: {fault}", image)


def named_prompts(path: Path) -> dict[str, Any]:
    """The prompts of a file by name: keys of a JSON object, else prompt_1, prompt_2, ...

    ValueError names the first line that is no prompt.
    """
    if path.suffix.lower() == ".json" and isinstance(value := json_of(text_of(path.read_bytes())), dict):
        for name, prompt in value.items():
            if not isinstance(prompt, str):
                raise ValueError(f"{path}: {name!r} is {json.dumps(prompt)[:60]}, and a prompt is text in quotes")
        return value
    part = Dataset(prompts=path)
    prompts = list(_prompts(None, 0, part, always))
    for entry in prompts:
        if entry.error or entry.others:
            raise ValueError(entry.error or f"{entry.caption[:60]!r} and others are one prompt; give each its own")
    return {f"prompt_{number}": entry.caption for number, entry in enumerate(prompts, 1)}


def _captions(value: Any) -> tuple[Captions, str]:
    try:
        return captions_of(value), ""
    except ValueError as error:
        return (), str(error)


def _title(part: Dataset, row: Row) -> str:
    return f"{PurePosixPath(str(part.place)).name}, {row.where}"


def _rows(part: Dataset, columns: Sequence[str], more: More) -> Iterator[Row]:
    """The rows of a manifest or of prompts, each a mapping or a fault, until ``more`` is false. ValueError where no row
    is a mapping, or none has all ``columns``, since the file is then something else."""
    names: set[str] | None = None
    wrong = ""
    optional = [part.image_column] if part.image_column else []
    for row in takewhile(lambda _: more(), rows_in(part.place, columns, optional)):
        value = {part.caption_column: row.value} if _is_prompt(part, row.value) else row.value
        if not row.fault and not isinstance(value, dict):
            text = json.dumps(value, ensure_ascii=False)[:60]
            kinds = "text or JSON object" if part.kind == "prompts" else "JSON object"
            row = Row(row.where, fault=f"one {kinds} a line, not {text}", alien=True)
        if not row.fault:
            names = (names or set()) | set(value)
        elif row.alien:
            wrong = wrong or f"{_title(part, row)}: {row.fault}"
        yield Row(row.where, {} if row.fault else value, row.fault)
    if names is None and wrong:
        raise ValueError(f"no row of it can be read; {wrong}")
    if names is not None and not names >= set(columns):
        raise ValueError(
            f"each line needs {' and '.join(map(repr, columns))}; it has {sorted(names)}. Other names: datasets with "
            "video_column and caption_column"
        )


def _is_prompt(part: Dataset, value: Any) -> bool:
    return part.kind == "prompts" and not isinstance(value, dict | list)


_READERS = {"videos": _folder, "shards": _shards, "manifest": _manifest, "prompts": _prompts, "latents": _latents}
