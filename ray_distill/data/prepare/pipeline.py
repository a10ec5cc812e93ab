"""The Ray Data pipeline: entries -> clips -> latents and text embeddings -> the cache of a run.

What a store holds already is not made again: a preparation that was killed, or whose source has grown, goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.data import ActorPoolStrategy, Dataset

from ray_distill.data.encoders import Encoders
from ray_distill.data.feed.stream import quiet
from ray_distill.data.prepare.encode import EncodeClips, EncodeText
from ray_distill.data.prepare.index import finish
from ray_distill.data.prepare.inventory import Made
from ray_distill.data.prepare.known_caches import known, memo, remember
from ray_distill.data.prepare.listing import entries, listing
from ray_distill.data.prepare.stages import CLIPS, Decode, Look, Write
from ray_distill.data.prepare.teach import MakeClips
from ray_distill.data.source import Source, Teacher
from ray_distill.data.store.cache import KINDS, Cache, older
from ray_distill.data.store.parquet import FILE, address
from ray_distill.data.store.tables import among, equal, unequal, without
from ray_distill.errors import mistakes
from ray_distill.masking import HIDDEN
from ray_distill.models.spec import of_clips
from ray_distill.sealed import Damaged

log = logging.getLogger(__name__)
Say = Callable[[str], None]
Stopped = Callable[[], bool]
LOOK, DECODE, ENCODE, WRITE = 0.5, 0.75, 0.45, 0.25
"""CPUs of each stage. They differ, or Ray would fuse two of them and decode in the encoder's one process."""

ATTEMPTS = 3
"""At a preparation, each of which may find a file of the cache damaged."""

BLOCK, LIGHT = 64, 256
"""Most clips of a task, so that what a worker holds does not grow with the source; and most files to look into, or
captions: light ones, of which a task should hold many."""


def prepare(source: Source, models: Encoders, say: Say = log.info) -> Cache:
    """The cache of the source, made unless it is there. What cannot be used is counted, named and left out.

    ConfigError where a dataset is missing or unreadable, or nothing of the source is left.
    """
    with mistakes():
        listed = listing(source)
    for _ in range(ATTEMPTS - 1):
        try:
            return known(source, models, listed) or _made(source, models, listed, say)
        except Damaged as damaged:  # it is set aside: what it held is missing now
            say(f"   {damaged}")
    return _made(source, models, listed, say)


def _made(source: Source, models: Encoders, listed: pa.Table, say: Say) -> Cache:
    if not (source.cache_dir / KINDS["caption"] / models.encoder).is_dir() and (past := older(source.cache_dir)):
        say(
            f"   {source.cache_dir}: {len(past)} caches of an earlier version, such as {past[0].name}, know no digests "
            "of their rows: all is encoded anew, and what was there before may be removed"
        )
    before = memo(source, models, listed)
    prompts = pa.array((n for n, part in enumerate(source.parts) if part.kind == "prompts"), pa.int64())
    looked = _looked(source, models, without(listed, "dataset", prompts), say)
    made = Made(source, models, among(listed, "dataset", prompts), looked)
    _captions(source, models, made, say)
    if not source.stream:
        _clips(source, models, made, say)
    for number, part in enumerate(source.parts):
        if part.teacher is not None:
            _taught(source, models, made, number, part.teacher, say)
    cache = finish(made)
    if memo(source, models, listed) == before:  # else a file was replaced meanwhile: the next preparation looks again
        remember(source, models, listed, cache)
    return cache


def real_videos(source: Source, cache: Cache) -> Dataset:
    """The cache's clips as ``pixels`` uint8 [T, height, width, 3] of the size of samples, read from their files again;
    ``error`` is "" unless a file has changed since."""
    paths = {(entry.dataset, entry.video): entry.path for entry in entries(source)}
    clips = unequal(cache.index.filter(pa.array(cache.choices > 0)), video="")
    clips = clips.select(["dataset", "video", "number", "content"])
    size = {"height": source.height, "width": source.width}
    known = ((row, paths.get((row["dataset"], row["video"]))) for row in clips.to_pylist())
    rows = [row | size | {"path": path} for row, path in known if path]  # a run outlives clips of its sources
    if not rows:
        raise ValueError("data: none of the cache's clips is in its sources any more; set evaluate.metric=null")
    return _decoded(source, dataset(pa.Table.from_pylist(rows)))


def with_paths(source: Source, rows: pa.Table) -> pa.Table:
    """Rows of an index, with the addresses that it holds masked as the source gives them now, signed anew perhaps."""
    if not pc.any(pc.match_substring(rows["path"], HIDDEN)).as_py():
        return rows
    paths = {(entry.dataset, entry.video): entry.path for entry in entries(source)}
    keys = zip(rows["dataset"].to_pylist(), rows["video"].to_pylist(), rows["path"].to_pylist(), strict=True)
    found = pa.array((paths.get((dataset, video), path) for dataset, video, path in keys), pa.string())
    return rows.set_column(rows.column_names.index("path"), "path", found)


def _looked(source: Source, models: Encoders, files: pa.Table, say: Say) -> pa.Table:
    """Each clip of the source's files, or the error in its place."""
    tables = [CLIPS.empty_table()]
    if len(files):
        looked = dataset(files, LIGHT).flat_map(Look(source, models.multiple), num_cpus=share(LOOK))
        progress = Progress("files looked into", len(files), say)
        for batch in looked.iter_batches(batch_size=None, batch_format="pyarrow"):
            rows: Any = batch
            tables.append(rows.select(CLIPS.names).cast(CLIPS))
            progress.add(len(equal(rows, number=0)), len(unequal(rows, error="")))
    return pa.concat_tables(tables).combine_chunks()


def _captions(source: Source, models: Encoders, made: Made, say: Say) -> None:
    rows = made.missing_text()
    if len(rows):
        encoded = _encoded(dataset(rows, LIGHT), EncodeText, (models,), source, max(8, source.encode_batch))
        _written(encoded, Write(made.text), 1 << 20, Progress("captions", len(rows), say))


def _clips(source: Source, models: Encoders, made: Made, say: Say) -> None:
    rows = made.missing_clips()
    if len(rows):
        # Clips of one size follow each other, so that the encoder's batches are full.
        rows = rows.sort_by([(name, "ascending") for name in ("height", "width", "id")])
        encoded = _encoded_clips(source, models, dataset(rows))
        write = Write(made.latents, beside=made.images, apart=tuple(of_clips(models.fields)))
        made.failed(_written(encoded, write, made.row_bytes, Progress("clips", len(rows), say)))


def encode_beside(
    source: Source, models: Encoders, rows: pa.Table, write: Write, cpus: float, say: Say, stopped: Stopped
) -> dict[str, str]:
    """Clips in the order of ``rows``, with the CPUs that a training leaves, until they are all there or ``stopped``.

    Files are small, since training waits for them. Returns the errors by id; they stand in the store, too.
    """
    batch = max(8, source.encode_batch)
    encoded = _encoded_clips(source, models, dataset(rows, batch), cpus)
    return _written(encoded, write, FILE // batch, Progress("clips", len(rows), say), cpus, stopped)


def _encoded_clips(source: Source, models: Encoders, rows: Dataset, cpus: float | None = None) -> Dataset:
    return _encoded(_decoded(source, rows, cpus), EncodeClips, (models,), source, source.encode_batch, cpus)


def _decoded(source: Source, rows: Dataset, cpus: float | None = None) -> Dataset:
    return rows.map_batches(Decode(source), batch_size=None, num_cpus=share(DECODE, cpus))


def _taught(source: Source, models: Encoders, made: Made, part: int, teacher: Teacher, say: Say) -> None:
    """Prompts through the teacher's sampler."""
    rows = made.missing_taught(part)
    if len(rows):
        (uncond,) = made.text.find([address(source.negative_prompt)])
        given = (models, teacher, made.sample_shape, made.text, uncond, made.images)
        encoded = _encoded(dataset(rows), MakeClips, given, source, teacher.batch)
        progress = Progress("clips by the teacher", len(rows), say)
        made.failed(_written(encoded, Write(made.latents), made.row_bytes, progress))


def _encoded(
    rows: Dataset, encoder: type, arguments: tuple[Any, ...], source: Source, batch: int, cpus: float | None = None
) -> Dataset:
    """``rows`` through a pool of actors that grows to ``data.encoders``.

    Beside a training they are there from the start, as many as leave CPUs to the other stages: Ray adds one once the
    decoders have ended, and until then the training would wait.
    """
    others = share(DECODE, cpus) + share(WRITE, cpus) + 0.05
    least = 1 if cpus is None else max(1, min(source.encoders, int((cpus - others) / share(ENCODE, cpus))))
    return rows.map_batches(
        encoder,
        fn_constructor_args=arguments,
        batch_size=batch,
        compute=ActorPoolStrategy(min_size=least, max_size=source.encoders),
        num_cpus=share(ENCODE, cpus),
        num_gpus=source.encoder_gpus or None,
    )


def _written(
    rows: Dataset,
    write: Write,
    row_bytes: int,
    progress: Progress,
    cpus: float | None = None,
    stopped: Stopped = lambda: False,
) -> dict[str, str]:
    """``write`` the rows; returns the errors of those that are not there, by id.

    What a kill may cost each writer is a file: a twentieth of the work, 256 rows, or ``FILE`` bytes.
    """
    errors: dict[str, str] = {}
    per_file = max(1, min(-(-progress.total // 20), 256, FILE // row_bytes))
    told = rows.map_batches(write, batch_size=per_file, num_cpus=share(WRITE, cpus))
    for batch in told.iter_batches(batch_size=None, batch_format="numpy"):
        bad = {id_: error for id_, error in zip(batch["id"], batch["error"], strict=True) if error}
        errors |= bad
        progress.add(len(batch["id"]), len(bad))
        if stopped():
            break
    return errors


def share(of: float, cpus: float | None = None) -> float:
    """The CPUs of a stage, of ``cpus`` or the cluster's: all stages must fit beside each other, or all but the first
    would never start."""
    return of * min(1.0, (ray.cluster_resources().get("CPU", 1) if cpus is None else cpus) / 2)


def dataset(rows: pa.Table, per_block: int = BLOCK) -> Dataset:
    quiet()
    blocks = max(4 * int(ray.cluster_resources().get("CPU", 1)), -(-len(rows) // per_block))
    bounds = np.linspace(0, len(rows), min(blocks, len(rows)) + 1).astype(int).tolist()
    return ray.data.from_arrow([rows.slice(start, end - start) for start, end in pairwise(bounds)])


class Progress:
    """Counts and the time left, every few seconds. Actors take theirs to start: the pace is since the first row."""

    def __init__(self, what: str, total: int, say: Say, every_s: float = 5) -> None:
        self.what, self.total, self.say, self.every_s = what, total, say, every_s
        self.done = self.bad = 0
        self.told = time.monotonic()
        self.first: tuple[float, int] | None = None

    def add(self, done: int, bad: int) -> None:
        now = time.monotonic()
        self.done, self.bad = self.done + done, self.bad + bad
        began, before = self.first = self.first or (now, self.done)
        if now - self.told >= self.every_s or self.done == self.total:
            self.told, left = now, self.total - self.done
            pace = (self.done - before) / (now - began) if now > began else 0.0
            ahead = f", {pace:.3g}/s, {left / pace:.0f} s left" if left and pace else ""
            self.say(f"   {self.what}: {self.done} of {self.total}, {self.bad} skipped{ahead}")
