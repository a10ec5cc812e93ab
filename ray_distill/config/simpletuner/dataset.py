"""The dataset file that ``data_backend_config`` names, and the keys beside it that speak of data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

from ray_distill.config.keys import ConfigError, nearest
from ray_distill.config.simpletuner.files import read_json
from ray_distill.config.simpletuner.outcome import (
    File,
    Key,
    Outcome,
    Refused,
    Rule,
    flag,
    number,
    one_of,
    taken,
    text,
    to,
    whole,
)

MANIFESTS = (".jsonl", ".csv", ".parquet")
INHERITED = ("resolution", "resolution_type", "minimum_image_size")
SHARED = ("frames", "stride", "resolution", "crop", "minimum_image_size")
"""Set for all datasets by the first, and for another where it differs."""
Entry = Mapping[str, Any]
Reader = Callable[[Any, Entry, File], Outcome]


@dataclass(frozen=True)
class Field:
    """A key of a dataset: what it sets there, or, with a dot, elsewhere."""

    rule: Reader
    here: str


def kind(value: Any, entry: Entry, file: File) -> Outcome:
    one_of(value, ("video", "prompts", "text_embeds"), "videos, and prompts where the method needs no data")
    return Outcome()


def place(value: Any, entry: Entry, file: File) -> Outcome:
    path = file.locate(text(value))
    if entry.get("dataset_type") == "prompts":
        return Outcome({"prompts": str(path)})
    return Outcome({"manifest" if path.suffix in MANIFESTS else "videos": str(path)})


def captions(value: Any, entry: Entry, file: File) -> Outcome:
    match one_of(value, ("textfile", "filename", "instanceprompt", "parquet", "csv", "jsonl")):
        case "filename":
            return Outcome({"captions": "filename"})
        case "instanceprompt":
            return Outcome({"caption": text(entry.get("instance_prompt"))})
        case "textfile":
            return Outcome(note="a .txt beside each video")
    return Outcome(note="a column of the file that instance_data_dir or parquet names")


def parquet(value: Any, entry: Entry, file: File) -> Outcome:
    names = {"path": "manifest", "filename_column": "video_column", "caption_column": "caption_column"}
    if not isinstance(value, dict):
        raise Refused(f"expected a section of {', '.join(names)}")
    given = {names[one_of(key, names)]: text(each) for key, each in value.items()}
    return Outcome(given | ({"manifest": str(file.locate(value["path"]))} if "path" in value else {}))


def frames(value: Any, entry: Entry, file: File) -> Outcome:
    count = whole(value)
    fitting = max(1, (count - 1) // 4 * 4 + 1)
    note = "" if fitting == count else f"Wan takes 4k+1 frames: the first {fitting} of {count}"
    return Outcome({"frames": fitting}, note, warn=bool(note))


def interval(value: Any, entry: Entry, file: File) -> Outcome:
    return Outcome({"stride": max(1, whole(value))})


def video(value: Any, entry: Entry, file: File) -> Outcome:
    known = {"num_frames": frames, "frame_interval": interval}
    if not isinstance(value, dict):
        raise Refused(f"expected a section of {', '.join(known)}")
    found = [known[one_of(key, known)](each, entry, file) for key, each in value.items()]
    values = {key: each for one in found for key, each in one.values.items()}
    return Outcome(values, "; ".join(one.note for one in found if one.note), any(one.warn for one in found))


def resolution(value: Any, entry: Entry, file: File) -> Outcome:
    size, unit = number(entry.get("resolution", 480)), entry.get("resolution_type", "pixel_area")
    if one_of(unit, ("pixel_area", "area", "pixel"), "resolution_type") == "pixel":
        raise Refused("sizes go by area here: use resolution_type=pixel_area")
    side = round(1000 * sqrt(size)) if unit == "area" else round(size)
    if flag(entry.get("crop", False)) and entry.get("crop_aspect", "square") == "square":
        edge = max(16, round(side / 16) * 16)
        return Outcome({"data.resolution_type": "fixed", "data.height": edge, "data.width": edge})
    return Outcome({"data.resolution_type": "pixel_area", "resolution": side})


def crop(value: Any, entry: Entry, file: File) -> Outcome:
    return Outcome({"crop": flag(value)}, "" if flag(value) else "whole pictures, in buckets of their own aspect")


def sets(name: str, read: Callable[[Any], Any]) -> Reader:
    return lambda value, entry, file: Outcome({name: read(value)})


def says(note: str) -> Reader:
    return lambda value, entry, file: Outcome(note=note)


def among(*known: str) -> Reader:
    return lambda value, entry, file: Outcome(note=one_of(value, known))


FIELDS: Mapping[str, Field] = {
    "id": Field(sets("id", text), "`id`"),
    "type": Field(among("local"), "`local`; others are refused"),
    "dataset_type": Field(kind, "`video`, or `prompts` for data-free DMD; `text_embeds` is passed over"),
    "disabled": Field(says("a dataset that is disabled is passed over"), "true: the dataset is passed over"),
    "instance_data_dir": Field(place, "`videos`: a folder; `manifest`: a .jsonl, .csv or .parquet; or `prompts`"),
    "metadata_backend": Field(says("files are listed when the cache is made"), "accepted: nothing is listed before"),
    "parquet": Field(parquet, "`manifest`, `video_column` and `caption_column`"),
    "caption_strategy": Field(captions, "`captions`: textfile, filename, instanceprompt, or a manifest's column"),
    "instance_prompt": Field(says("see caption_strategy"), "`caption`, with caption_strategy=instanceprompt"),
    "cache_dir": Field(sets("data.cache_dir", text), "`data.cache_dir`: latents and text embeddings"),
    "num_frames": Field(frames, "`frames`, the 4k+1 at or below it"),
    "frame_interval": Field(interval, "`stride`: each N-th frame"),
    "video": Field(video, "num_frames and frame_interval, as some files nest them"),
    "resolution": Field(resolution, "`resolution`: about its square of pixels"),
    "resolution_type": Field(resolution, "`pixel_area`, or `area` in megapixels; `pixel` is refused"),
    "minimum_image_size": Field(sets("minimum_image_size", whole), "`minimum_image_size`"),
    "crop": Field(crop, "`crop`; true with crop_aspect=square, its default, is one fixed square"),
    "crop_aspect": Field(among("square", "preserve"), "`square` or `preserve`"),
    "repeats": Field(sets("repeats", number), "`repeats`: extra passes in an epoch"),
    "probability": Field(sets("probability", number), "`probability`"),
}


def datasets(file: File) -> tuple[dict[str, Any], list[tuple[str, Any, Outcome]]]:
    """(the keys of data that the dataset file sets, a line for each of its own keys). Where the data are named
    elsewhere, those beside ``data_backend_config`` remain.

    Refused, or ConfigError with the dataset's number, for what cannot be taken.
    """
    named = file.given.get("data_backend_config")
    if file.overrides("data.manifest") or file.overrides("data.datasets") or named is None:
        beside = {key: file.given[key] for key in INHERITED if key in file.given}
        values = {
            k: v for key, value in beside.items() for k, v in FIELDS[key].rule(value, beside, file).values.items()
        }
        return {key if "." in key else f"data.{key}": value for key, value in values.items()}, []
    path = file.locate(named)
    content = read_json(path)
    tree: dict[str, Any] = {}
    parts: list[dict[str, Any]] = []
    lines: list[tuple[str, Any, Outcome]] = []
    for number_, entry in enumerate(content if isinstance(content, list) else [content]):
        if not isinstance(entry, dict):
            raise Refused("each dataset is a mapping")
        if entry.get("disabled") or entry.get("dataset_type") == "text_embeds":
            continue
        part = _dataset(entry, f"{path}: dataset {number_}", file, lines)
        tree = {key: value for key, value in part.items() if "." in key} | tree
        parts.append({key: value for key, value in part.items() if "." not in key})
    shared = {key: parts[0][key] for key in SHARED if parts and key in parts[0]}
    own = [{k: v for k, v in part.items() if k not in shared or v != shared[k]} for part in parts]
    return tree | {f"data.{key}": value for key, value in shared.items()} | {"data.datasets": own}, lines


def _beside(file: File) -> Entry:
    """What stands beside ``data_backend_config`` and is for datasets that do not set it."""
    return {key: file.given[key] for key in INHERITED if key in file.given}


def _global(values: Mapping[str, Any]) -> dict[str, Any]:
    """A dataset's keys as those of all data."""
    return {key if "." in key else f"data.{key}": value for key, value in values.items()}


def _dataset(entry: Entry, where: str, file: File, lines: list[tuple[str, Any, Outcome]]) -> dict[str, Any]:
    whole_ = {**_beside(file), **entry}
    part: dict[str, Any] = {}
    for key, value in whole_.items():
        if key not in FIELDS:
            raise ConfigError(f"{where}: {key}: unknown key; {nearest(key, FIELDS)}")
        try:
            outcome = FIELDS[key].rule(value, whole_, file)
        except Refused as error:
            raise ConfigError(f"{where}: {key} = {value!r}: {error}") from None
        part |= outcome.values
        if key in entry:
            lines.append((key, value, outcome))
    if not part.keys() & {"videos", "manifest", "prompts"}:
        raise ConfigError(
            f"{where}: instance_data_dir: it names the folder with the videos, and is not set. Set it, or give "
            "data.manifest=FILE"
        )
    return part


def backend(value: Any, file: File) -> Outcome:
    if "data.datasets" not in file.data:
        return Outcome(note="data.manifest or data.datasets is set elsewhere")
    return Outcome(file.data)


def inherited(key: str) -> Rule:
    """A key for datasets that do not set it; for all of the data where these are named elsewhere."""

    def rule(value: Any, file: File) -> Outcome:
        if "data.datasets" in file.data:
            return Outcome(note="for datasets that do not set it")
        made = FIELDS[key].rule(value, _beside(file), file)
        return Outcome(_global(made.values), made.note, made.warn)

    return rule


DATA: Mapping[str, Key] = {
    "data_backend_config": Key(backend, "`data.datasets`: a file with one dataset or a list"),
    "resolution": Key(inherited("resolution"), "for datasets that do not set it"),
    "resolution_type": Key(inherited("resolution_type"), "for datasets that do not set it"),
    "minimum_image_size": Key(inherited("minimum_image_size"), "for datasets that do not set it"),
    "aspect_bucket_rounding": Key(to("data.aspect_bucket_rounding", kind=whole), "`data.aspect_bucket_rounding`"),
    "caption_dropout_probability": Key(to("data.caption_dropout"), "`data.caption_dropout`; DMD warns of it"),
    "compress_disk_cache": Key(taken("the cache is always zstd"), "accepted: the cache is always zstd"),
    "delete_problematic_images": Key(
        taken("sources are never deleted: a list names what was passed over"),
        "sources are never deleted, whatever it says: a list names what was passed over",
    ),
    "disable_bucket_pruning": Key(to("data.keep_small_buckets", kind=flag), "`data.keep_small_buckets`"),
    "vae_batch_size": Key(to("data.encode_batch", kind=whole), "`data.encode_batch`"),
}
