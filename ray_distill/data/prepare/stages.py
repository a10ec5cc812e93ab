"""Tasks that Ray Data maps over files: look into a file, decode its clips, write encoded rows.

Each worker imports this file, so it imports no model library, and torch only where a clip must be resized.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby, islice
from typing import Any

import numpy as np
import pyarrow as pa

from ray_distill.data.clips import Clips
from ray_distill.data.prepare.listing import LISTED
from ray_distill.data.read.clip import BadClip, Seek, Video
from ray_distill.data.read.picture import read_picture
from ray_distill.data.read.remote import local, version
from ray_distill.data.read.sound import read_sound
from ray_distill.data.read.transform import resize
from ray_distill.data.read.video import look, read_clip
from ray_distill.data.source import Source
from ray_distill.data.store.parquet import Store, address
from ray_distill.masking import mask

Row = dict[str, Any]
Batch = Mapping[str, np.ndarray]
CLIPS = pa.schema(
    [
        *LISTED,
        *((name, pa.int64()) for name in ("number", "height", "width", "tokens")),
        *((name, pa.string()) for name in ("id", "header", "content", "image_id", "embedding_id")),
    ]
)
"""Columns of the rows that ``Look`` makes from rows of ``listing.LISTED``."""
EMPTY = {
    **{"number": 0, "height": 0, "width": 0, "tokens": 0},
    **{"id": "", "header": "", "content": "", "image_id": "", "embedding_id": ""},
}
"""The values of these columns in the row of an entry without a clip."""
PIECES, PIECE = 128, 128 << 10
"""Number and bytes of the pieces that identify a file larger than all of them together (16 MiB)."""
TOGETHER = 64 << 20
"""Most bytes of clips in one block."""


@dataclass(frozen=True)
class Look:
    """An entry -> its clips, each with the header's facts, its number, its size and an id; an entry that cannot be used
    has the reason in ``error``.

    Clips' heights and widths are multiples of ``multiple``, the model's. ``sound`` is the address of the encoding of
    their sound, "" for clips without sound.
    """

    source: Source
    multiple: tuple[int, int]
    sound: str = ""

    def __call__(self, row: Row) -> list[Row]:
        clips = self.source.clips(self.source.parts[row["dataset"]])
        if row["error"]:
            return [row | EMPTY]
        if row.get("video") == "":
            return [self._prompt(row | EMPTY, clips)]
        try:
            with local(row["path"]) as path:
                before = version(path)
                most, limit = clips.clips_per_video, self.source.maximum_pixels
                (video, seeks), content = look(path, clips.cut(0), most, limit), fingerprint(path)
                if version(path) != before:
                    raise BadClip(row["path"], "was replaced while its header was read")
            if reason := clips.unfit(video.square_size):
                raise BadClip(row["path"], reason)
        except BadClip as bad:
            return [row | EMPTY | {"error": str(bad)}]
        size = clips.size(video.square_size, self.multiple)
        image_id, wrong = picture_id(row["image"], clips, size) if row.get("image") else ("", "")
        if wrong:
            return [row | EMPTY | {"error": wrong}]
        rows = []
        for number, seek in enumerate(seeks):
            id_ = address(content, clips.cut(number), size, clips.crop, *([self.sound] if self.sound else []))
            header = json.dumps([asdict(video), seek and asdict(seek)])
            clip = {"number": number, "height": size[0], "width": size[1], "id": id_, "header": header}
            rows.append(row | EMPTY | clip | {"content": content, "image_id": image_id})
        return rows

    def _prompt(self, row: Row, clips: Clips) -> Row:
        """The row of a prompt with the id of its picture, which is cropped to the size of samples."""
        image_id, wrong = picture_id(row["image"], clips, (self.source.height, self.source.width))
        return row | {"image_id": image_id, "error": wrong}


def picture_id(place: str, clips: Clips, size: tuple[int, int]) -> tuple[str, str]:
    """(id of a picture's encoding, from its content and crop; the reason why there is none)."""
    try:
        with local(place) as path:
            return address("picture", fingerprint(path), clips.frames, size, clips.crop), ""
    except BadClip as bad:
        return "", str(bad)


def fingerprint(path: str) -> str:
    """sha256 over a file's size and content; for a file larger than 16 MiB over ``PIECES`` evenly spaced pieces from
    its first byte to its last. Two such files of equal size that differ only between the pieces count as equal."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256(f"{size}".encode())
            if size <= PIECES * PIECE:
                digest.update(file.read())
            else:
                for number in range(PIECES):
                    file.seek((size - PIECE) * number // (PIECES - 1))
                    digest.update(file.read(PIECE))
            return digest.hexdigest()
    except OSError as error:
        raise BadClip(path, f"cannot be read ({error})") from error


@dataclass(frozen=True)
class Decode:
    """Clips -> ``pixels`` uint8 [n, T, H, W, 3], for some clips of one shape at a time. A clip that cannot be decoded
    has zeros, and the reason in ``error``, which is "" for others. A row without a ``header`` has its file's header
    read again; a row's ``content`` must be the fingerprint of the file.

    With a ``sound_rate`` each clip also has its ``samples`` float32 [n, 2, samples] at that rate, NaN where its file
    has no sound."""

    source: Source
    sound_rate: int = 0

    def __call__(self, rows: Batch) -> Iterator[dict[str, Any]]:
        clips, start = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)], 0
        for shape, alike in groupby(clips, self._shape):
            while some := list(islice(alike, self._together(shape))):
                # Allocated once: stacking clips would copy them again.
                pixels = np.empty((len(some), *shape), dtype=np.uint8)
                samples = self._silence(some)
                errors = [self.clip(row, *arrays)[1] for row, *arrays in zip(some, pixels, samples, strict=True)]
                columns = {name: column[start : start + len(some)] for name, column in rows.items()}
                columns |= {"samples": samples} if self.sound_rate else {}
                yield columns | {"pixels": pixels, "error": np.array(errors, dtype=object)}
                start += len(some)

    def clip(
        self, row: Row, out: np.ndarray | None = None, samples: np.ndarray | None = None
    ) -> tuple[np.ndarray, str]:
        """(pixels [T, H, W, 3] of one clip, its error); the pixels are written into ``out``, and the sound into
        ``samples`` [2, samples], if the caller passes them."""
        clips = self.source.clips(self.source.parts[row["dataset"]])
        pixels = np.empty(self._shape(row), dtype=np.uint8) if out is None else out
        facts = _facts(row["header"]) if row.get("header") else None
        source = self.source
        fit = partial(_fit, height=row["height"], width=row["width"], crop=clips.crop)
        try:
            with local(row["path"]) as path:
                cut, limit = clips.cut(row["number"]), source.maximum_pixels
                read_clip(path, cut, fit, facts, pixels, source.decoder, limit)
                if samples is not None and samples.size:
                    samples[:] = read_sound(path, cut, self.sound_rate, limit)
                if row.get("content") and row["content"] != fingerprint(path):
                    raise BadClip(row["path"], "was replaced since its header was read")
        except BadClip as bad:
            pixels[:] = 0
            return pixels, str(bad)
        return pixels, ""

    def _shape(self, row: Row) -> tuple[int, int, int, int]:
        return self.source.clips(self.source.parts[row["dataset"]]).frames, int(row["height"]), int(row["width"]), 3

    def _silence(self, rows: Sequence[Row]) -> np.ndarray:
        """Samples without sound [n, 2, samples] for clips of one shape; without samples where none are read."""
        clips = self.source.clips(self.source.parts[rows[0]["dataset"]])
        return np.full((len(rows), 2, round(clips.frames / clips.fps * self.sound_rate)), np.nan, np.float32)

    def _together(self, shape: tuple[int, ...]) -> int:
        """Number of clips that fit into ``TOGETHER`` bytes, in whole batches of the encoder where at least one fits."""
        fitting, batch = TOGETHER // math.prod(shape), self.source.encode_batch
        return max(1, fitting - fitting % batch if fitting > batch else fitting)


def _facts(header: str) -> tuple[Video, Seek | None]:
    """The result of ``look`` for a row's clip."""
    video, seek = json.loads(header)
    return Video(**video), seek and Seek(**seek | {"numbers": tuple(seek["numbers"])})


def _fit(frames: np.ndarray, video: Video, height: int, width: int, crop: bool) -> np.ndarray:
    return resize(frames, height, width, video.pixel_aspect, crop)


@dataclass(frozen=True)
class DecodePicture:
    """The row of a picture -> its ``pixels`` uint8 [1, H, W, 3], cropped as clips are, and the ``frames`` of the clip
    that begins with it. An unreadable picture has zeros, and the reason in ``error``, which is "" for others."""

    source: Source

    def __call__(self, row: Row) -> Row:
        clips = self.source.clips(self.source.parts[row["dataset"]])
        size = row["height"] or self.source.height, row["width"] or self.source.width
        row_of_picture = {"id": row["image_id"], "frames": clips.frames, "error": ""}
        try:
            with local(row["image"]) as path:
                picture = read_picture(path, self.source.maximum_pixels)
            return row_of_picture | {"pixels": resize(picture[None], *size, crop=clips.crop)}
        except BadClip as bad:
            return row_of_picture | {"pixels": np.zeros((1, *size, 3), np.uint8), "error": str(bad)}


@dataclass(frozen=True)
class FirstFrame:
    """The row of a clip -> the ``pixels`` uint8 [H, W, 3] from which it begins, and its ``place``: those of the picture
    ``image``, or the clip's first frame where it has none. ``error`` is that of :class:`Decode`."""

    source: Source

    def __call__(self, row: Row) -> Row:
        if row["image"]:
            picture = DecodePicture(self.source)(row | {"image_id": ""})
            return {"place": row["place"], "pixels": picture["pixels"][0], "error": picture["error"]}
        pixels, error = Decode(self.source).clip(row)
        return {"place": row["place"], "pixels": pixels[0], "error": error}


@dataclass(frozen=True)
class Write:
    """Write good rows into a file of ``store``; returns ``id`` and ``error`` of all rows. With ``errors`` the store
    gets the errors as well.

    ``beside`` is a second store for the columns ``apart``. It is written first, so that each row in ``store`` has its
    columns in ``beside``.
    """

    store: Store
    errors: bool = False
    beside: Store | None = None
    apart: tuple[str, ...] = ()

    def __call__(self, rows: Batch) -> dict[str, Any]:
        rows_of_batch = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
        good = [row for row in rows_of_batch if not row["error"]]
        if self.beside is not None:
            self.beside.write([{name: row[name] for name in ("id", *self.apart)} for row in good])
        self.store.write([{k: v for k, v in row.items() if k not in ("error", *self.apart)} for row in good])
        bad = {row["id"]: mask(row["error"]) for row in rows_of_batch if row["error"]}
        if self.errors and bad:
            self.store.write_errors(bad)
        return {"id": list(rows["id"]), "error": list(rows["error"])}
