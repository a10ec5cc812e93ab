"""Rules for FastVideo's data: latents and captions of its parquet files, and the prompts of its validations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray_distill.fastvideo.file import File
from ray_distill.plaintext import NotText, read_text
from ray_distill.simpletuner.outcome import Outcome
from ray_distill.simpletuner.values import Refused, whole

MOST = 256
"""Most parquet files that become datasets of a run."""
REMEDY = "write the captions into a text file, one per line, and give data.datasets=[{prompts: FILE}]"
FOLDERS = "give the folder that FastVideo's preprocessing wrote, or the clips: data.datasets=[{videos: FOLDER}]"


def data_path(key: str, value: Any, file: File) -> Outcome:
    """Datasets of prompts, one for each parquet file, or of latents, one for each folder, where the run reads them; a
    folder counts as often as ``{folder: n}`` says."""
    if file.has_own_data:
        return Outcome(note="no effect: the data is set elsewhere")
    if file.reads_latents:
        folders = [(file.locate(place), repeats) for place, repeats in _places(value)]
        note = (
            "latents and captions are read, and captions encoded by the pipeline's own text encoder; embeddings are "
            "read with data.datasets=[{latents: FOLDER, text_embeddings: true}]"
        )
        parts = [
            {"latents": str(folder), "repeats": repeats - 1} for folder, repeats in folders if _parquet(folder, FOLDERS)
        ]
        return Outcome({"data.datasets": parts}, note, warn=True)
    datasets = [
        {
            "id": f"{Path(str(place)).name}/{path.stem}",
            "prompts": str(path),
            "caption_column": "caption",
            "repeats": repeats - 1,
        }
        for place, repeats in _places(value)
        for path in _parquet(file.locate(place))
    ]
    if len(datasets) > MOST:
        raise Refused(f"{len(datasets)} parquet files, and at most {MOST} become datasets; {REMEDY}")
    note = "the captions alone are read, and encoded by the pipeline's own text encoder; latents and embeddings are not"
    return Outcome({"data.datasets": datasets}, note, warn=True)


def _places(value: Any) -> list[tuple[Any, int]]:
    """(folder, number of passes in an epoch) of each entry."""
    if isinstance(value, dict):
        places = [(place, whole(count)) for place, count in value.items()]
    else:
        places = [(place, 1) for place in (value if isinstance(value, list) else [value])]
    if not places or any(count < 1 for _, count in places):
        raise Refused("expected a folder, a list of folders, or folders with numbers of passes of 1 or more")
    return places


def _parquet(place: Path, remedy: str = REMEDY) -> list[Path]:
    files = [place] if place.is_file() else sorted(place.rglob("*.parquet"))
    if not files:
        raise Refused(f"{place} holds no parquet file; {remedy}")
    return files


def prompts(key: str, value: Any, file: File) -> Outcome:
    """``evaluate.prompts`` of a validation file: {"data": [{"caption": ...}]}."""
    if file.overrides("evaluate.prompts"):
        return Outcome(note="no effect: the prompts are set elsewhere")
    path = file.locate(value)
    try:
        content = json.loads(read_text(path))
    except (NotText, ValueError) as error:
        raise Refused(f"{path}: {error}") from None
    rows = content.get("data") if isinstance(content, dict) else None
    captions = [row.get("caption") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    if not captions or not all(isinstance(caption, str) and caption.strip() for caption in captions):
        raise Refused(f'{path}: expected {{"data": [{{"caption": "a text"}}]}}')
    return Outcome({"evaluate.prompts": {f"prompt_{number}": text for number, text in enumerate(captions, 1)}})
