"""Rules for the `parquet` section of a dataset: a table of captions beside a folder of videos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_distill.simpletuner.document import is_comment
from ray_distill.simpletuner.outcome import File, Outcome
from ray_distill.simpletuner.values import Refused, blank, flag, one_of, text

COLUMNS = {"filename_column": "video_column", "caption_column": "caption_column"}
FALLBACKS = {
    "filename_column": ("parquet_filename_column", "id"),
    "caption_column": ("parquet_caption_column", "description"),
}
"""(the configuration's key, SimpleTuner's default) for a table that does not name the column."""
NAMES = (
    "path",
    *COLUMNS,
    "fallback_caption_column",
    "identifier_includes_extension",
    "width_column",
    "height_column",
    "aspect_ratio_column",
    "num_frames_column",
    "fps_column",
    "bbox_column",
)


def parquet(value: Any, entry: Mapping[str, Any], file: File) -> Outcome:
    if not isinstance(value, dict):
        raise Refused(f"expected a section of {', '.join(NAMES)}")
    columns = {one_of(key, NAMES): each for key, each in value.items() if not is_comment(key) and not blank(each)}
    if entry.get("caption_strategy", "parquet") != "parquet":
        return Outcome(note="captions come from elsewhere, and sizes are those of the files")
    if "identifier_includes_extension" in columns and not flag(columns["identifier_includes_extension"]):
        raise Refused(
            "identifier_includes_extension: a table names its videos with their extension here (0001.mp4); write them "
            "so, and set it to true"
        )
    values = {name: text(columns[key]) for key, name in COLUMNS.items() if key in columns}
    if "path" not in columns:
        return Outcome(values)
    for key, (own, usual) in FALLBACKS.items():
        values.setdefault(COLUMNS[key], text(file.settings.get(own, usual)))
    note, warn = "sizes are those of the files", False
    if "fallback_caption_column" in columns:
        note, warn = "a row without a caption is left out and counted, whatever fallback_caption_column says", True
    return Outcome(values | {"manifest": str(_table(text(columns["path"]), entry, file))}, note, warn)


def _table(name: str, entry: Mapping[str, Any], file: File) -> Path:
    """The table's path: relative to the working directory or to the configuration, as for every file, else to the
    folder of the videos."""
    try:
        return file.locate(name)
    except Refused:
        inside = file.locate(text(entry["instance_data_dir"])) / name if "instance_data_dir" in entry else None
        if inside is None or not inside.is_file():
            raise
        return inside
