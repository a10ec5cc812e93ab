"""Rules for SimpleTuner's dataset file (`data_backend_config`) and for the keys beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_distill.config.keys import ConfigError
from ray_distill.simpletuner.datatable import all_fields
from ray_distill.simpletuner.document import FORM, hint, is_comment, read_json, set_keys
from ray_distill.simpletuner.fields import CACHE, Entry
from ray_distill.simpletuner.mixing import mix, one_beginning, own_keys, square
from ray_distill.simpletuner.outcome import File, Key, Outcome, Rule, look_up
from ray_distill.simpletuner.placeholders import fill
from ray_distill.simpletuner.report import Line, quote
from ray_distill.simpletuner.rules import accept, to
from ray_distill.simpletuner.values import Refused, flag, one_of, whole

FIELDS = all_fields()
SIZES = ("resolution", "resolution_type", "minimum_image_size")
INHERITED = (
    *SIZES,
    "maximum_image_size",
    "target_downsample_size",
    "caption_strategy",
    "instance_prompt",
    "only_instance_prompt",
    "prepend_instance_prompt",
    "cache_dir_vae",
    "max_upscale_threshold",
)
"""Keys beside ``data_backend_config`` that hold for datasets which do not set them."""
Used = tuple[str, dict[str, Any], dict[str, Any]]
FIRST = ("type", "dataset_type")
"""Keys that are read first, since other keys depend on them."""
CACHES = ("text_embeds", "image_embeds", "conditioning_image_embeds", "distillation_cache")


def datasets(file: File) -> tuple[dict[str, Any], list[Line]]:
    """(values that the dataset file sets, a report line for each of its keys). Where the data are set elsewhere, only
    the keys beside ``data_backend_config`` count.

    Refused, or ConfigError with the dataset's number, for a value that this tool does not take.
    """
    named = file.settings.get("data_backend_config")
    if file.overrides("data.manifest") or file.overrides("data.datasets") or named is None:
        beside = {key: file.settings[key] for key in SIZES if key in file.settings}
        values = {
            k: v for key, value in beside.items() for k, v in FIELDS[key].rule(value, beside, file).values.items()
        }
        return _global(values), []
    path = file.locate(named)
    lines: list[Line] = []
    entries = _used(path, file, lines)
    parts = _parts(entries, file, lines)
    square(parts, path)
    one_beginning(parts, path)
    tree = {key: value for part in reversed(parts) for key, value in part.items() if "." in key}
    shared, own = own_keys([{key: value for key, value in part.items() if "." not in key} for part in parts])
    own, note = mix(own, file)
    for entry, part in zip(entries, parts, strict=True):
        if "frames" in shared and not part.keys() & {"frames", "prompts"}:
            unset = Outcome(
                {"frames": shared["frames"]}, "not set: clips are as long as those of the other datasets", warn=True
            )
            lines.append(Line("dataset.num_frames", None, unset, of=str(entry[1].get("id", ""))))
    if note:
        lines.append(Line("dataset.probability", [part.get("probability", 1) for part in parts], note))
    return tree | _global(shared) | {"data.datasets": own}, lines


def _parts(entries: Sequence[Used], file: File, lines: list[Line]) -> list[dict[str, Any]]:
    """The values that each dataset sets. ``lines`` gets a report line for each of its keys."""
    one_cache = next((each for _, entry, _ in entries if (each := _cache(entry))), None)
    parts = []
    for where, entry, raw in entries:
        name = str(entry.get("id", where.rpartition(" ")[2])) if len(entries) > 1 else ""
        part, outcomes = _dataset(entry | {CACHE: one_cache}, where, file)
        if not part.keys() & {"videos", "manifest", "prompts"}:
            null = " = None" if "instance_data_dir" in raw else ""
            raise ConfigError(
                f"{where}: instance_data_dir{null}: the folder with the videos is not set. Set it, or "
                "give data.manifest=FILE"
            )
        parts.append(part)
        outcomes |= {key: Outcome(note="a comment") for key in raw if is_comment(key)}
        lines += [Line(f"dataset.{key}", raw[key], outcomes[key], of=name) for key in raw if key in outcomes]
    return parts


def _used(path: Path, file: File, lines: list[Line]) -> list[Used]:
    """(place in messages, keys including inherited ones, its own keys as written) of each dataset in use. ``lines``
    gets a report line for each other dataset."""
    content = read_json(path)
    if isinstance(content, dict) and isinstance(content.get(FORM, content.get("datasets")), list):
        content = content.get(FORM, content.get("datasets"))
    used: list[Used] = []
    for number, raw in enumerate(content if isinstance(content, list) else [content]):
        if not isinstance(raw, dict):
            raise Refused("each dataset is a mapping")
        where = f"{path}: dataset {number}"
        try:
            entry = fill(set_keys(raw), file.settings)
            reason = _passed_over(entry)
        except Refused as error:
            raise ConfigError(f"{where}: {error}") from None
        if not entry:
            continue  # only comments
        if reason is None:
            beside = {key: file.settings[key] for key in INHERITED if key in file.settings}
            whole_ = beside | entry
            whole_picture = {"crop": False} if whole_.keys() & {"resolution", "resolution_type"} else {}
            used.append((where, whole_picture | whole_, raw))
        else:
            lines.append(Line("dataset", entry.get("id", number), reason))
    if not used:
        raise Refused(f"{path}: no dataset is left: each is disabled, or a cache; give one with instance_data_dir")
    return used


def _passed_over(entry: Entry) -> Outcome | None:
    for key in ("disabled", "disable"):
        try:
            if key in entry and flag(entry[key]):
                return Outcome(note=f"{key} is true: the dataset is passed over")
        except Refused as error:
            raise Refused(f"{key} = {entry[key]!r}: {error}") from None
    kind = str(entry.get("dataset_type", "video")).lower()
    if kind in CACHES:
        filters = "caption_filter_list" in entry
        more = ", and captions are not filtered: caption_filter_list has no effect" if filters else ""
        note = f"dataset_type = {kind}: passed over, since one cache holds the latents and text of all datasets{more}"
        return Outcome(note=note, warn=filters)
    if kind == "eval":
        return Outcome(note="dataset_type = eval: passed over, since evaluate.metric measures a student", warn=True)
    return None


def _cache(entry: Entry) -> Any:
    return entry.get("cache_dir_vae", entry.get("cache_dir"))


def _dataset(entry: Entry, where: str, file: File) -> tuple[dict[str, Any], dict[str, Outcome]]:
    """(the values that one dataset sets, the outcome of each of its keys)."""
    part: dict[str, Any] = {}
    outcomes: dict[str, Outcome] = {}
    for key in sorted(entry.keys() - {CACHE}, key=lambda key: (key not in FIRST, list(entry).index(key))):
        field = look_up(FIELDS, key)
        if field is None:
            raise ConfigError(f"{where}: {key}: unknown key; {hint(key, FIELDS)}")
        try:
            outcomes[key] = field.rule(entry[key], entry, file)
        except Refused as error:
            raise ConfigError(f"{where}: {key} = {quote(key, entry[key])}: {error}") from None
        part.update(outcomes[key].values)
    return part, outcomes


def _global(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a dataset's keys into keys of the data section."""
    return {key if "." in key else f"data.{key}": value for key, value in values.items()}


def backend(value: Any, file: File) -> Outcome:
    if "data.datasets" not in file.data:
        return Outcome(note="data.manifest or data.datasets is set elsewhere")
    return Outcome(file.data)


def inherited(key: str) -> Rule:
    """Rule of a key that datasets inherit; where the data are set elsewhere, a size applies to all data."""

    def rule(value: Any, file: File) -> Outcome:
        if "data.datasets" in file.data or key not in SIZES:
            return Outcome(note="for datasets that do not set it")
        beside = {each: file.settings[each] for each in SIZES if each in file.settings}
        outcome = FIELDS[key].rule(value, beside, file)
        return Outcome(_global(outcome.values), outcome.note, outcome.warn)

    return rule


def sampling(value: Any, file: File) -> Outcome:
    return Outcome(note=f"{one_of(value, ('auto-weighting', 'uniform'))}: see dataset.probability")


DATA: Mapping[str, Key] = {
    "data_backend_config": Key(backend, "`data.datasets`: a file with one dataset or a list"),
    **{key: Key(inherited(key), "for datasets that do not set it") for key in INHERITED},
    "parquet_caption_column": Key(accept("see dataset.parquet"), "for tables that do not say"),
    "parquet_filename_column": Key(accept("see dataset.parquet"), "for tables that do not say"),
    "data_backend_sampling": Key(
        sampling, "how datasets are mixed: each clip alike (`auto-weighting`), or each dataset alike (`uniform`)"
    ),
    "aspect_bucket_rounding": Key(to("data.aspect_bucket_rounding", kind=whole), "`data.aspect_bucket_rounding`"),
    "caption_dropout_probability": Key(to("data.caption_dropout"), "`data.caption_dropout`; DMD warns of it"),
    "compress_disk_cache": Key(accept("the cache is always zstd"), "accepted: the cache is always zstd"),
    "delete_problematic_images": Key(
        accept("sources are never deleted: a list names what was passed over"),
        "sources are never deleted, whatever it says: a list names what was passed over",
    ),
    "disable_bucket_pruning": Key(to("data.keep_small_buckets", kind=flag), "`data.keep_small_buckets`"),
    "vae_batch_size": Key(to("data.encode_batch", kind=whole), "`data.encode_batch`"),
    "vae_cache_ondemand": Key(to("data.stream", kind=flag), "`data.stream`: training begins beside the encoding"),
}
