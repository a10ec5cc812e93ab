"""The Ray Data pipeline: entries -> clips -> latents and text embeddings -> the cache of a run.

Rows in a store are not encoded again, so that a preparation continues where an earlier one was killed, and after its
source has grown.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, Dataset

from ray_distill.data.encoders import Encoders
from ray_distill.data.feed.ahead import ahead
from ray_distill.data.feed.stream import quiet
from ray_distill.data.prepare.clip_rows import clip_rows
from ray_distill.data.prepare.embeddings import ReadEmbeddings
from ray_distill.data.prepare.encode import CountTokens, EncodeClips, EncodePictures, EncodeText
from ray_distill.data.prepare.index import finish
from ray_distill.data.prepare.inventory import Inventory
from ray_distill.data.prepare.known_caches import memo, recall, remember
from ray_distill.data.prepare.latents import LookLatents, ReadLatents
from ray_distill.data.prepare.listing import entries, listing
from ray_distill.data.prepare.progress import Progress, Say
from ray_distill.data.prepare.stages import CLIPS, Decode, DecodePicture, FirstFrame, Look, Write
from ray_distill.data.prepare.teach import MakeClips
from ray_distill.data.source import Source, Teacher
from ray_distill.data.store.cache import KINDS, Cache, older
from ray_distill.data.store.parquet import FILE, address
from ray_distill.data.store.tables import among, equal, unequal, without
from ray_distill.errors import mistakes
from ray_distill.models.spec import of_clips
from ray_distill.sealed import Damaged

log = logging.getLogger(__name__)
Stopped = Callable[[], bool]
LOOK, DECODE, ENCODE, WRITE = 0.5, 0.48, 0.45, 0.25
"""CPUs of each stage. They must differ: Ray would fuse equal stages, and decode in the encoder's single process. A
decoder takes a whole CPU; but Ray Data keeps CPUs back for each other stage. With 0.75 one clip was decoded at a time
on 2 CPUs, 3 on 4 and 7 on 8; with 0.48 it is 2, 5 and 12."""

ATTEMPTS = 3
"""Attempts at a preparation; each may find one damaged file of the cache."""

BLOCK, LIGHT = 64, 256
"""Most clips per task, so that a worker's memory does not grow with the source; and most files to look into, or
captions, per task: these are light, so that a task should have many."""


def prepare(
    source: Source, models: Encoders, say: Say = log.info, meanwhile: Callable[[], None] = lambda: None
) -> Cache:
    """Return the source's cache, and prepare it first unless it exists. Unusable files are counted, named and left out.
    ``meanwhile`` is the caller's own work while encoders start and encode: its process is idle then.

    ConfigError where a dataset is missing or unreadable, or no usable row is left.
    """
    with mistakes():
        listed = listing(source)
    for _ in range(ATTEMPTS - 1):
        try:
            return recall(source, models, listed) or _build(source, models, listed, say, meanwhile)
        except Damaged as damaged:  # the damaged file is set aside, so that the next attempt encodes its rows
            say(f"   {damaged}")
    return _build(source, models, listed, say, meanwhile)


def _build(source: Source, models: Encoders, listed: pa.Table, say: Say, meanwhile: Callable[[], None]) -> Cache:
    if not (source.cache_dir / KINDS["caption"] / models.encoder).is_dir() and (past := older(source.cache_dir)):
        say(
            f"   {source.cache_dir}: {len(past)} caches of an earlier version, such as {past[0].name}, have no digests "
            "of their rows: all rows are encoded anew, and you may remove the old caches"
        )
    before = memo(source, models, listed)
    prompts, latents = (pa.array(source.numbers_of(kind), pa.int64()) for kind in ("prompts", "latents"))
    look = Look(source, models.multiple, models.sound)
    clips = _look(look, without(listed, "dataset", pa.concat_arrays([prompts, latents])), say)
    if len(latents):
        shapes, widths = models.shapes_of_latents(source), models.widths_of_text(source)
        of_latents = LookLatents(shapes, models.pipeline.statistics, (source.height, source.width), widths)
        clips = pa.concat_tables(
            [clips, _look(of_latents, among(listed, "dataset", latents), say, models if widths else None)]
        )
    alone = among(listed, "dataset", prompts)
    pictured = unequal(alone, image="")
    if models.images and len(pictured):
        alone = pa.concat_tables([equal(alone, image=""), _look(look, pictured, say)], promote_options="default")
    inventory = Inventory(source, models, alone, clips)
    _captions(source, models, inventory, say, meanwhile)
    if any(part.text_embeddings for part in source.parts):
        _embeddings(source, models, inventory, say)
    if any(part.image_column for part in source.parts):
        _pictures(source, models, inventory, say)
    if not source.stream:
        _clips(source, models, inventory, say, meanwhile)
        _latents(source, models, inventory, say)
    for number, part in enumerate(source.parts):
        if part.teacher is not None:
            _teach(source, models, inventory, number, part.teacher, say)
    cache = finish(inventory)
    if memo(source, models, listed) == before:  # else a file was replaced meanwhile: the next preparation looks again
        remember(source, models, listed, cache)
    return cache


def real_videos(source: Source, cache: Cache) -> Dataset:
    """Read the cache's clips from their files again, as ``pixels`` uint8 [T, height, width, 3] of the size of samples;
    ``error`` is "" unless a file has changed."""
    return _decode(source, dataset(pa.Table.from_pylist(clip_rows(source, cache))))


def first_frames(source: Source, cache: Cache, numbers: Sequence[int]) -> list[np.ndarray | None]:
    """The pictures uint8 [height, width, 3], in the size of samples, from which the clips of some rows begin: a row's
    own picture, else its clip's first frame, read again; None for a file that is gone or has changed."""
    files = {(entry.dataset, entry.video or entry.caption): entry for entry in entries(source)}
    rows = []
    for place, row in enumerate(cache.rows(numbers, ["dataset", "video", "caption", "number", "content"])):
        entry = files.get((row["dataset"], row["video"] or row["caption"]))
        if entry is not None and (entry.image or entry.path):
            size = {"height": source.height, "width": source.width}
            rows.append(row | size | {"place": place, "path": entry.path, "image": entry.image})
    pictures: list[np.ndarray | None] = [None] * len(numbers)
    if rows:
        for row in dataset(pa.Table.from_pylist(rows)).map(FirstFrame(source), num_cpus=share(DECODE)).take_all():
            if row["error"] == "":
                pictures[row["place"]] = row["pixels"]
    return pictures


def _look(look: Look | LookLatents, files: pa.Table, say: Say, counter: Encoders | None = None) -> pa.Table:
    """A table of the clips in ``files``, with an error in the place of each unusable file. ``counter``: the encoders
    whose tokenizer counts the tokens of clips with a text embedding."""
    tables = [CLIPS.empty_table()]
    if len(files):
        clips = dataset(files, LIGHT).flat_map(look, num_cpus=share(LOOK))
        if counter is not None:
            pool, arguments = ActorPoolStrategy(size=1), (counter,)
            clips = clips.map_batches(
                CountTokens, fn_constructor_args=arguments, batch_size=LIGHT, compute=pool, num_cpus=share(ENCODE)
            )
        progress = Progress("files looked into", len(files), say)
        with progress.bar:
            for batch in clips.iter_batches(batch_size=None, batch_format="pyarrow"):
                rows: Any = batch
                tables.append(rows.select(CLIPS.names).cast(CLIPS))
                progress.add(len(equal(rows, number=0)), len(unequal(rows, error="")))
    return pa.concat_tables(tables).combine_chunks()


def _captions(source: Source, models: Encoders, inventory: Inventory, say: Say, meanwhile: Callable[[], None]) -> None:
    rows = inventory.missing_text()
    if len(rows):
        encoded = _encode(dataset(rows, LIGHT), EncodeText, (models, True), source, max(8, source.encode_batch))
        _write(encoded, Write(inventory.text), 1 << 20, Progress("captions", len(rows), say), meanwhile=meanwhile)


def _embeddings(source: Source, models: Encoders, inventory: Inventory, say: Say) -> None:
    """Compare some text embeddings of datasets with the encoder's own, and copy those that their store lacks."""
    read = ReadEmbeddings(models.widths_of_text(source), models.text_field)
    if len(inventory.compared):
        inventory.compare(_again(inventory.compared, read).take_all())
    if len(rows := inventory.missing_embeddings()):
        progress = Progress("text embeddings", len(rows), say)
        inventory.mark_failed(_write(_again(rows, read), Write(inventory.text), 1 << 20, progress), "embedding_id")


def _again(rows: pa.Table, read: ReadLatents | ReadEmbeddings) -> Dataset:
    rows = rows.sort_by([(name, "ascending") for name in ("path", "dataset", "number")])  # a file is read once
    return dataset(rows).map_batches(read, batch_size=None, num_cpus=share(DECODE))


def _pictures(source: Source, models: Encoders, inventory: Inventory, say: Say) -> None:
    rows = inventory.missing_pictures()
    if len(rows) and inventory.images is not None:
        decoded = dataset(rows, LIGHT).map(DecodePicture(source), num_cpus=share(DECODE))
        encoded = _encode(decoded, EncodePictures, (models,), source, source.encode_batch)
        progress = Progress("pictures", len(rows), say)
        inventory.mark_failed(_write(encoded, Write(inventory.images), inventory.row_bytes, progress), "image_id")


def _clips(source: Source, models: Encoders, inventory: Inventory, say: Say, meanwhile: Callable[[], None]) -> None:
    rows = without(inventory.missing_clips(), "dataset", pa.array(source.numbers_of("latents"), pa.int64()))
    if len(rows):
        # Clips of one size follow each other, so that the encoder's batches are full.
        rows = rows.sort_by([(name, "ascending") for name in ("height", "width", "id")])
        encoded = _encoded_clips(source, models, dataset(rows))
        write = Write(inventory.latents, beside=inventory.images, apart=tuple(of_clips(models.fields)))
        progress = Progress("clips", len(rows), say)
        inventory.mark_failed(_write(encoded, write, inventory.row_bytes, progress, meanwhile=meanwhile))


def _latents(source: Source, models: Encoders, inventory: Inventory, say: Say) -> None:
    """Copy missing latents, which another tool encoded, into their store."""
    rows = among(inventory.missing_clips(), "dataset", pa.array(source.numbers_of("latents"), pa.int64()))
    if len(rows):
        copied = _again(rows, ReadLatents(models.shapes_of_latents(source), models.pipeline.statistics))
        progress = Progress("latents", len(rows), say)
        inventory.mark_failed(_write(copied, Write(inventory.latents), inventory.row_bytes, progress))


def encode_beside(
    source: Source, models: Encoders, rows: pa.Table, write: Write, cpus: float, say: Say, stopped: Stopped
) -> dict[str, str]:
    """Encode clips in the order of ``rows``, on the CPUs that a training leaves, until all are encoded or ``stopped``.

    Files are small, since training waits for them. Returns the errors by id; the store has them as well.
    """
    batch = max(8, source.encode_batch)
    encoded = _encoded_clips(source, models, dataset(rows, batch), cpus)
    return _write(encoded, write, FILE // batch, Progress("clips", len(rows), say), cpus, stopped)


def _encoded_clips(source: Source, models: Encoders, rows: Dataset, cpus: float | None = None) -> Dataset:
    decoded = _decode(source, rows, cpus, models.sound_rate)
    return _encode(decoded, EncodeClips, (models,), source, source.encode_batch, cpus)


def _decode(source: Source, rows: Dataset, cpus: float | None = None, sound_rate: int = 0) -> Dataset:
    return rows.map_batches(Decode(source, sound_rate), batch_size=None, num_cpus=share(DECODE, cpus))


def _teach(source: Source, models: Encoders, inventory: Inventory, part: int, teacher: Teacher, say: Say) -> None:
    """Sample a dataset's missing clips by its teacher."""
    rows = inventory.missing_teacher_clips(part)
    if len(rows):
        (uncond,) = inventory.text.find([address(source.negative_prompt)])
        arguments = (models, teacher, inventory.sample_shape, inventory.text, uncond, inventory.images)
        encoded = _encode(dataset(rows), MakeClips, arguments, source, teacher.batch)
        progress = Progress("clips by the teacher", len(rows), say)
        inventory.mark_failed(_write(encoded, Write(inventory.latents), inventory.row_bytes, progress))


def _encode(
    rows: Dataset, encoder: type, arguments: tuple[Any, ...], source: Source, batch: int, cpus: float | None = None
) -> Dataset:
    """Encode ``rows`` in a pool of actors that grows to ``data.encoders``.

    Beside a training all actors that leave CPUs to the other stages start at once: Ray would add an actor only after
    the decoders have ended, and the training would wait until then.
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


def _write(
    rows: Dataset,
    write: Write,
    row_bytes: int,
    progress: Progress,
    cpus: float | None = None,
    stopped: Stopped = lambda: False,
    meanwhile: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Write ``rows`` by ``write``, and do ``meanwhile`` once; returns the errors by id of the rows that failed.

    A kill costs each writer at most one file: a twentieth of the work, 256 rows, or ``FILE`` bytes.
    """
    errors: dict[str, str] = {}
    per_file = max(1, min(-(-progress.total // 20), 256, FILE // row_bytes))
    results = rows.map_batches(write, batch_size=per_file, num_cpus=share(WRITE, cpus))
    with progress.bar:
        batches = ahead(lambda: iter(results.iter_batches(batch_size=None, batch_format="numpy")))
        meanwhile()
        for batch in batches:
            bad = {id_: error for id_, error in zip(batch["id"], batch["error"], strict=True) if error}
            errors |= bad
            progress.add(len(batch["id"]), len(bad))
            if stopped():
                break
    return errors


def share(of: float, cpus: float | None = None) -> float:
    """CPUs of a task of a stage that asks for ``of``, scaled to ``cpus`` or to the cluster's: all stages must fit
    beside each other, else only the first would ever start."""
    return of * min(1.0, (ray.cluster_resources().get("CPU", 1) if cpus is None else cpus) / 2)


def dataset(rows: pa.Table, per_block: int = BLOCK) -> Dataset:
    quiet()
    blocks = max(4 * int(ray.cluster_resources().get("CPU", 1)), -(-len(rows) // per_block))
    bounds = np.linspace(0, len(rows), min(blocks, len(rows)) + 1).astype(int).tolist()
    # from_arrow would count the rows of each block in a task of its own: 2 ms a block in place of 0.6.
    return ray.data.from_blocks([rows.slice(start, end - start) for start, end in pairwise(bounds)])
