"""Rows of FastVideo's parquet files: their columns and types, read whole or again by number.

Ray Data's tasks import this file: no model library here, and no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ray_distill.data.prepare.rows import as_bytes
from ray_distill.data.prepare.stages import Batch, Row
from ray_distill.data.read.clip import BadClip
from ray_distill.data.read.remote import local
from ray_distill.data.store.parquet import BROKEN

Columns = Mapping[str, tuple[Callable[[pa.DataType], bool], str]]
"""Columns that a file needs: a test of their type, and its name."""
PICTURES = ("first_frame_latent_bytes", "clip_feature_bytes", "pil_image_bytes", "image_condition_latents_bytes")
"""Columns of image to video."""
FLOAT32 = ("float32", "torch.float32")
AT_ONCE = 4
"""Rows that are in memory at a time."""


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def is_numbers(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_integer(kind.value_type)


def fault_of_file(schema: pa.Schema, columns: Columns) -> str:
    """The reason why a file of this ``schema`` cannot be used; "" if there is none."""
    missing = [name for name in columns if name not in schema.names]
    if missing:
        return (
            f"no column {', '.join(missing)}: latents are read from FastVideo's parquet of text to video, "
            "pyarrow_schema_t2v; captions alone are data.datasets=[{prompts: FILE}]"
        )
    if pictures := [name for name in PICTURES if name in schema.names]:
        return f"column {pictures[0]} belongs to image to video, and latents of text to video alone are read"
    for name, (fits, kind) in columns.items():
        if not fits(of := _plain(schema.field(name).type)):
            return f"column {name} holds {of}, and it needs {kind}"
    return ""


def fault_of_dtype(dtype: bytes | None, what: str) -> str:
    """The reason why values of ``dtype``, as a column names it, cannot be read; "" if there is none."""
    name = None if dtype is None else dtype.decode(errors="replace")
    return "" if name in FLOAT32 else f"{what} {name}, and float32 is read"


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


@contextmanager
def opened(path: str, columns: Columns) -> Iterator[pq.ParquetFile]:
    """Yield an open file with ``columns``; BadClip for one that is gone, damaged or of other columns."""
    try:
        with pq.ParquetFile(path) as file:
            if fault := fault_of_file(file.schema_arrow, columns):
                raise BadClip(path, fault)
            yield file
    except BROKEN as error:
        if isinstance(error, BadClip):
            raise
        raise BadClip(path, f"not readable: {type(error).__name__}: {error}") from None


def rows_of_file(
    file: pq.ParquetFile, columns: Sequence[str], only: Sequence[int] | None = None
) -> Iterator[tuple[int, Row]]:
    """(number, values) of the rows of a file; with ``only`` only of the row groups that hold these numbers. Text
    comes as bytes, since Arrow takes it for UTF-8 without a check."""
    start = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        if only is None or any(start <= number < start + count for number in only):
            number = start
            for batch in file.iter_batches(AT_ONCE, [group], list(columns)):
                for row in pa.table([as_bytes(batch[name]) for name in columns], list(columns)).to_pylist():
                    yield number, row
                    number += 1
        start += count


def read_again(
    rows: Batch,
    columns: Columns,
    encode: Callable[[Row, Row], dict[str, Any] | None],
    id_: str,
    empty: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """Read the rows of files that clips ``rows`` of `LookLatents` name: ``encode(clip, row)`` is the row of a store,
    None where ``row`` is not the one that was looked into. Such a clip and those of an unreadable file give their id,
    from the column ``id_``, an ``error``, and ``empty`` values."""
    clips = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
    for (path, _), of_file in groupby(clips, lambda clip: (str(clip["path"]), int(clip["dataset"]))):
        waiting = {int(clip["number"]): clip for clip in of_file}
        error = "was replaced since it was looked into"
        try:
            with local(path) as copy, opened(copy, columns) as file:
                for number, row in rows_of_file(file, [*columns], list(waiting)):
                    if number in waiting and (encoded := encode(waiting[number], row)) is not None:
                        del waiting[number]
                        yield encoded
        except BadClip as bad:
            error = bad.reason
        for clip in waiting.values():
            yield {"id": [clip[id_]], "error": [f"{path}: {error}"], **{name: [value] for name, value in empty.items()}}
