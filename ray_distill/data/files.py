"""What Ray Data maps over a source's files: look into one, decode a clip of it; and write encoded rows to a store.

Light to import: each worker does.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby, islice
from typing import Any

import numpy as np
import pyarrow as pa

from ray_distill.data.cut import BadClip, Video
from ray_distill.data.listing import LISTED
from ray_distill.data.remote import local
from ray_distill.data.source import Source
from ray_distill.data.store import Store, address
from ray_distill.data.transform import resize
from ray_distill.data.video import probe, read_clip

Row = dict[str, Any]
Batch = Mapping[str, np.ndarray]
CLIPS = pa.schema(
    [
        *LISTED,
        *((name, pa.int64()) for name in ("number", "height", "width")),
        *((name, pa.string()) for name in ("id", "header")),
    ]
)
"""What ``Look`` makes of ``listing.LISTED``."""
EDGE = 1 << 20
TOGETHER = 64 << 20
"""Bytes of clips that are handed on together."""


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
            if reason := clips.unfit(video.shown):
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
    """Clips -> ``pixels`` uint8 [n, T, H, W, 3], some clips of one shape at a time; ``error`` says why one's are zeros,
    else "". Without a ``header`` its file is looked into again."""

    source: Source

    def __call__(self, rows: Batch) -> Iterator[dict[str, Any]]:
        told, start = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)], 0
        for shape, alike in groupby(told, self._shape):
            while some := list(islice(alike, self._together(shape))):
                # One array from the start: stacked clips would be copied once more.
                pixels = np.empty((len(some), *shape), dtype=np.uint8)
                errors = [self.clip(row, out)[1] for row, out in zip(some, pixels, strict=True)]
                given = {name: column[start : start + len(some)] for name, column in rows.items()}
                yield given | {"pixels": pixels, "error": np.array(errors, dtype=object)}
                start += len(some)

    def clip(self, row: Row, out: np.ndarray | None = None) -> tuple[np.ndarray, str]:
        """One clip's pixels [T, H, W, 3], in ``out`` if it is given, and its error."""
        clips = self.source.clips(self.source.parts[row["dataset"]])
        pixels = np.empty(self._shape(row), dtype=np.uint8) if out is None else out
        header = row.get("header")
        video = Video(**json.loads(header)) if header else None
        fit = partial(_fit, height=row["height"], width=row["width"], crop=clips.crop)
        try:
            with local(row["path"]) as path:
                read_clip(path, clips.cut(row["number"]), fit, video, pixels)
        except BadClip as bad:
            pixels[:] = 0
            return pixels, str(bad)
        return pixels, ""

    def _shape(self, row: Row) -> tuple[int, int, int, int]:
        return self.source.clips(self.source.parts[row["dataset"]]).frames, int(row["height"]), int(row["width"]), 3

    def _together(self, shape: tuple[int, ...]) -> int:
        """As many as ``TOGETHER`` takes, in whole batches of the encoder, if one fits."""
        fitting, batch = TOGETHER // math.prod(shape), self.source.encode_batch
        return max(1, fitting - fitting % batch if fitting > batch else fitting)


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
