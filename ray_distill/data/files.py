"""What Ray Data maps over a source's files: look into one, decode a clip of it; and write encoded rows to a store.

Light to import: each worker does.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from ray_distill.data.cut import BadClip, Video
from ray_distill.data.remote import local
from ray_distill.data.source import Source
from ray_distill.data.store import Store, address
from ray_distill.data.transform import resize
from ray_distill.data.video import probe, read_clip

Row = dict[str, Any]
Batch = Mapping[str, np.ndarray]
EDGE = 1 << 20


@dataclass(frozen=True)
class Look:
    """An entry -> its clips, each with what the file's header says, its cut, its size and an id; ``error`` says why
    there is none.

    ``multiple`` is what the model takes of height and width.
    """

    source: Source
    multiple: tuple[int, int]

    def __call__(self, row: Row) -> list[Row]:
        clips = self.source.clips(self.source.parts[row["dataset"]])
        empty = {"number": 0, "height": 0, "width": 0, "id": "", "header": ""}
        if row["error"]:
            return [row | empty]
        try:
            with local(row["path"]) as path:
                video, content = probe(path), fingerprint(path)
            height, width = video.shown
            if min(height, width) < clips.minimum_image_size:
                least = clips.minimum_image_size
                reason = f"shows {width:.0f}x{height:.0f} pixels, below data.minimum_image_size = {least}"
                raise BadClip(row["path"], reason)
        except BadClip as bad:
            return [row | empty | {"error": str(bad)}]
        size = clips.size(video.shown, self.multiple)
        found, header = [], json.dumps(asdict(video))
        for number in range(min(clips.clips_per_video, clips.cut(0).count(video))):
            id_ = address(content, clips.cut(number), size, clips.crop)
            found.append(row | {"number": number, "height": size[0], "width": size[1], "id": id_, "header": header})
        return found


def fingerprint(path: str) -> str:
    """sha256 over a file's size and its first and last MiB, where a video's tables of frames stand."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256(f"{size}".encode() + file.read(EDGE))
            file.seek(max(0, size - EDGE))
            digest.update(file.read())
            return digest.hexdigest()
    except OSError as error:
        raise BadClip(path, f"cannot be read ({error})") from error


@dataclass(frozen=True)
class Decode:
    """A clip -> ``pixels`` uint8 [T, H, W, 3]; ``error`` says why they are zeros, else "". Without a ``header`` the
    file is looked into again."""

    source: Source

    def __call__(self, row: Row) -> Row:
        clips = self.source.clips(self.source.parts[row["dataset"]])
        cut = clips.cut(row["number"])
        header = row.get("header")
        video = Video(**json.loads(header)) if header else None
        try:
            fit = partial(_fit, height=row["height"], width=row["width"], crop=clips.crop)
            with local(row["path"]) as path:
                pixels, error = read_clip(path, cut, fit, video).frames, ""
        except BadClip as bad:
            pixels, error = np.zeros((cut.frames, row["height"], row["width"], 3), dtype=np.uint8), str(bad)
        return row | {"pixels": pixels, "error": error}


def _fit(frames: np.ndarray, video: Video, height: int, width: int, crop: bool) -> np.ndarray:
    return resize(frames, height, width, video.pixel_aspect, crop)


@dataclass(frozen=True)
class Write:
    """Good rows -> a file of ``store``; what is left are ``id`` and ``error``. With ``errors`` these are there, too."""

    store: Store
    errors: bool = False

    def __call__(self, rows: Batch) -> dict[str, Any]:
        told = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
        self.store.write([{k: v for k, v in row.items() if k != "error"} for row in told if not row["error"]])
        bad = {row["id"]: row["error"] for row in told if row["error"]}
        if self.errors and bad:
            self.store.write_errors(bad)
        return {"id": list(rows["id"]), "error": list(rows["error"])}
