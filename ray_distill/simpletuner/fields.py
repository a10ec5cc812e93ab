"""Rules for the keys of one dataset of `data_backend_config`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

from ray_distill.simpletuner.outcome import File, Outcome
from ray_distill.simpletuner.values import Refused, flag, number, off, one_of, text

MANIFESTS = (".jsonl", ".csv", ".parquet")
CACHE = "the cache of all datasets"
"""Key of an entry for the one cache folder of all datasets; no dataset file can have such a key."""
MEGAPIXELS = 100  # more than any clip has, so that 480 must be meant as an edge
Entry = Mapping[str, Any]
Reader = Callable[[Any, Entry, File], Outcome]


@dataclass(frozen=True)
class Field:
    """A key of a dataset: its rule, and ``here``, its text in the documentation."""

    rule: Reader
    here: str


def kind(value: Any, entry: Entry, file: File) -> Outcome:
    one_of(text(value).lower(), ("video", "prompts", "caption"), "videos, and prompts where the method needs no data")
    return Outcome()


def store(value: Any, entry: Entry, file: File) -> Outcome:
    if value != "local":
        raise Refused(
            "known: local. Fetch the videos and name their folder in instance_data_dir, or name them by a URI: "
            "data.datasets=[{videos: s3://BUCKET/FOLDER}]"
        )
    return Outcome()


def place(value: Any, entry: Entry, file: File) -> Outcome:
    path = file.locate(text(value))
    if str(entry.get("dataset_type")).lower() in ("prompts", "caption"):
        return Outcome({"prompts": str(path)})
    if reads_table(entry):
        return Outcome({"root": str(path)})
    return Outcome({"manifest" if path.suffix in MANIFESTS else "videos": str(path)})


def reads_table(entry: Entry) -> bool:
    """True where a table beside the folder has the captions; a table without them has only sizes, which we read from
    files."""
    table = entry.get("parquet")
    return isinstance(table, dict) and "path" in table and entry.get("caption_strategy") == "parquet"


def captions(value: Any, entry: Entry, file: File) -> Outcome:
    if flag(entry.get("only_instance_prompt", False)):
        return Outcome(note="see only_instance_prompt")
    match one_of(value, ("textfile", "filename", "instanceprompt", "instance_prompt", "parquet", "csv", "jsonl")):
        case "filename":
            return Outcome({"captions": "filename"})
        case "instanceprompt" | "instance_prompt":
            return Outcome({"caption": _instance_prompt(entry)})
        case "textfile":
            if flag(entry.get("disable_multiline_split", False)):
                return Outcome(note="a .txt beside each video, whole")
            return Outcome({"captions": "lines"}, "a .txt beside each video, a caption a line")
    return Outcome(note="a column of the file that instance_data_dir or parquet names")


def whole_sidecar(value: Any, entry: Entry, file: File) -> Outcome:
    if flag(value):
        return Outcome(note="a sidecar of several lines is one caption")
    return Outcome(note="see caption_strategy")


def only_prompt(value: Any, entry: Entry, file: File) -> Outcome:
    if not flag(value):
        return Outcome(note="each video has its own caption")
    return Outcome({"caption": _instance_prompt(entry)})


def _instance_prompt(entry: Entry) -> str:
    if entry.get("instance_prompt") is None:
        raise Refused("instance_prompt is the caption of all videos, and is not set; set it")
    return text(entry["instance_prompt"])


def prepend(value: Any, entry: Entry, file: File) -> Outcome:
    alone = flag(entry.get("only_instance_prompt", False)) or "instance" in str(entry.get("caption_strategy"))
    if flag(value) and not alone:
        raise Refused("captions are taken as they are; write the prompt into them, or use only_instance_prompt")
    return Outcome(note="captions are taken as they are")


def cache(value: Any, entry: Entry, file: File) -> Outcome:
    one = entry[CACHE]
    if text(value) == one:
        return Outcome({"data.cache_dir": one}, "of all data, latents and text")
    return Outcome(note=f"no effect: one cache holds the latents and text of all datasets, {one}", warn=True)


def resolution(value: Any, entry: Entry, file: File) -> Outcome:
    size, unit = number(entry.get("resolution", 480)), entry.get("resolution_type", "pixel_area")
    if one_of(unit, ("pixel_area", "area", "pixel"), "resolution_type") == "pixel":
        raise Refused("sizes are areas here; use resolution_type=pixel_area")
    side = _edge(size, unit)
    many = unit == "area" and size > MEGAPIXELS
    note = f"{size:g} megapixels; resolution_type=pixel_area is for the edge of a square" if many else ""
    if side < 16:
        raise Refused(f"an edge of {side} pixels is too short; use 16 or more, or resolution_type=area for megapixels")
    if flag(entry.get("crop", False)) and entry.get("crop_aspect", "square") == "square":
        edge = max(16, round(side / 16) * 16)
        return Outcome({"data.resolution_type": "fixed", "data.height": edge, "data.width": edge}, note, many)
    return Outcome({"data.resolution_type": "pixel_area", "resolution": side}, note, many)


def smallest(value: Any, entry: Entry, file: File) -> Outcome:
    size = number(value)
    megapixels = entry.get("resolution_type") == "area" or 0 < size <= 10  # SimpleTuner reads 10 and less so
    note = f"megapixels: the area of a square of {_edge(size, 'area')} pixels" if megapixels and size else ""
    return Outcome({"minimum_image_size": _edge(size, "area" if megapixels else "pixel_area")}, note)


def _edge(size: float, unit: str) -> int:
    """The edge in pixels of a square whose size is ``size`` megapixels, or an edge already."""
    return round(1000 * sqrt(size)) if unit == "area" else round(size)


def largest(value: Any, entry: Entry, file: File) -> Outcome:
    number(value)
    return Outcome(note="a picture is scaled before it is cropped here, whatever its size")


def crop(value: Any, entry: Entry, file: File) -> Outcome:
    return Outcome({"crop": flag(value)}, "" if flag(value) else "whole pictures, in buckets of their own aspect")


def crop_aspect(value: Any, entry: Entry, file: File) -> Outcome:
    if not flag(entry.get("crop", False)):
        return Outcome(note="crop is false")
    one_of(value, ("square", "preserve"), "a crop keeps the picture's aspect or is a square. Known")
    return Outcome()


def crop_style(value: Any, entry: Entry, file: File) -> Outcome:
    style = one_of(value, ("center", "centre", "random", "corner", "face"))
    elsewhere = flag(entry.get("crop", False)) and style not in ("center", "centre")
    return Outcome(note="a crop is cut from the centre", warn=elsewhere)


def sets(name: str, read: Callable[[Any], Any]) -> Reader:
    return lambda value, entry, file: Outcome({name: read(value)})


def says(note: str) -> Reader:
    return lambda value, entry, file: Outcome(note=note)


def idle(why: str) -> Reader:
    return lambda value, entry, file: Outcome(note=f"no effect: {why}", warn=not off(value))


def only(why: str, *usual: str) -> Reader:
    """Refuse a key unless it is off, or has one of the ``usual`` values."""

    def read(value: Any, entry: Entry, file: File) -> Outcome:
        if off(value) or str(value) in usual:
            return Outcome(note="asks for nothing beyond the default")
        raise Refused(f"{why}; remove it")

    return read


def repeats(value: Any) -> float:
    times = number(value)
    if times < 0:
        raise Refused("expected 0 or more")
    return times


def probability(value: Any) -> float:
    share = number(value)
    if share < 0:
        raise Refused("expected a share above 0")
    return share or 1.0  # SimpleTuner reads 0 as 1
