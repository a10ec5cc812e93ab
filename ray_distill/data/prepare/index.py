"""Build a run's cache from its stores: the index of samples, the quarantine list and the card."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_distill import durable
from ray_distill.data.prepare.cropping import cropped
from ray_distill.data.prepare.inventory import Inventory
from ray_distill.data.prepare.silence import SILENT, counts, lines, silent_clips
from ray_distill.data.prepare.stages import Decode
from ray_distill.data.store.cache import KINDS, Cache, prompt_arrays, write
from ray_distill.data.store.parquet import Place, address, address_of, place_columns
from ray_distill.data.store.tables import among, distinct, equal, rows_of, unequal, without
from ray_distill.errors import ConfigError
from ray_distill.masking import mask
from ray_distill.models.spec import of_captions
from ray_distill.sealed import Damaged
from ray_distill.sheets import contact_sheet

log = logging.getLogger(__name__)
Row = dict[str, Any]
QUARANTINE, SHEET = "quarantine.jsonl", "contact_sheet.png"
CLIPS_SHOWN = 12


def finish(inventory: Inventory) -> Cache:
    """Write the cache's folder, whole or not at all, and return the cache; ConfigError where no row is left."""
    source = inventory.source
    bad = unequal(inventory.rows, error="").to_pylist()
    reasons = [{"file": row["video"] or row["caption"], "reason": _reason(row)} for row in bad]
    quarantine = "".join(
        json.dumps(reason, ensure_ascii=False) + "\n" for reason in sorted(reasons, key=lambda reason: reason["file"])
    )
    for row in reasons:
        log.warning("left out %s: %s", row["file"], row["reason"])
    if len(bad) == len(inventory.rows):
        durable.write(source.cache_dir / QUARANTINE, quarantine)
        raise ConfigError(
            f"data: none of its {len(bad)} clips can be used ({source.title}); "
            f"the reasons are in {source.cache_dir / QUARANTINE}"
        )
    index = _index_of(inventory)
    silent = _silent(inventory, index)
    card = _card(inventory, index, bad)
    if silent is not None:
        card |= {"sound": inventory.models.sound} | counts(silent)
    samples = rows_of(index.select(["id", "caption", "choices", "dataset"]))
    key = address_of(
        chain(
            (
                (row["id"], row["caption"], row["choices"], card["datasets"][row["dataset"]]["passes"])
                for row in samples
            ),
            (inventory.models.codec, inventory.models.encoder, source.negative_prompt, card["latent_shape"]),
            [inventory.models.images] if inventory.models.images else [],
            index[f"{KINDS['clip']}_id"].to_pylist() if any(part.image_column for part in source.parts) else [],
            index[f"{KINDS['caption']}_id"].to_pylist() if any(part.text_embeddings for part in source.parts) else [],
            ["streamed"] if card["streamed"] else [],
        )
    )
    cache = Cache(source.cache_dir / key[:16])
    with durable.alone(source.cache_dir):
        if not _whole(cache):
            if silent is not None:
                durable.write(cache.folder / SILENT, lines(silent))
            _write(inventory, cache.folder, index, card, quarantine)
    return Cache(cache.folder)


def _silent(inventory: Inventory, index: pa.Table) -> list[Row] | None:
    """The encoded clips of files that are silent at least in part; None where clips have no sound."""
    if not (inventory.source.has_videos and inventory.models.sound):
        return None
    clips = unequal(index, video="", choices=0, latents_file="")
    columns = [clips[f"latents_{part}"].to_pylist() for part in Place._fields]
    places = [Place(*place) for place in zip(*columns, strict=True)]
    return silent_clips(inventory.source, inventory.latents, clips.select(["dataset", "video", "number"]), places)


def _whole(cache: Cache) -> bool:
    try:
        cache.check()
    except Damaged:
        return False
    return True


def evenly_spaced(count: int) -> list[int]:
    """At most ``CLIPS_SHOWN`` numbers below ``count``, evenly spaced."""
    return sorted({round(number) for number in np.linspace(0, count - 1, min(CLIPS_SHOWN, count))})


def _sheet(inventory: Inventory, path: Path, index: pa.Table) -> None:
    """Decode some clips once more, and write a contact sheet of them; no sheet where there are no videos."""
    clips = without(unequal(index, video="", choices=0), "dataset", _of_latents(inventory))
    rows = clips.take(pa.array(evenly_spaced(len(clips)), pa.int64())).to_pylist()
    files = among(inventory.rows, "video", pa.array((row["video"] for row in rows), pa.string())).to_pylist()
    paths = {(row["dataset"], row["video"]): row["path"] for row in files}
    decode = Decode(inventory.source)
    decoded = [(row["caption"], *decode.clip(row | {"path": paths[row["dataset"], row["video"]]})) for row in rows]
    rows_shown = [(f"{list(pixels.shape[:3])} {caption}", [pixels]) for caption, pixels, error in decoded if not error]
    if rows_shown:
        contact_sheet(path, rows_shown, frames=4, edge=160)


def _of_latents(inventory: Inventory) -> pa.Array:
    """The numbers of the datasets of latents, whose clips have no pixels."""
    return pa.array(inventory.source.numbers_of("latents"), pa.int64())


def _reason(row: Row) -> str:
    reason: str = row["error"]
    return mask(reason.removeprefix(f"{row['path']}: ").removeprefix(f"{row['video']}: "))


def _reasons(bad: Sequence[Row]) -> dict[str, int]:
    """Counts by reason. Reasons that differ in their numbers alone are one, in the words of the first."""
    first: dict[str, str] = {}
    words = [first.setdefault(re.sub(r"\d+", "", reason), reason) for reason in map(_reason, bad)]
    return dict(Counter(words))


def _index_of(inventory: Inventory) -> pa.Table:
    """The index of samples, sorted by their content; equal lines of a dataset become one row."""
    columns = ["id", "dataset", "video", "caption", "number", "height", "width", "content"]
    if inventory.source.stream:
        columns += ["path", "header"]  # needed to encode clips while the run trains
    rows = equal(inventory.rows, error="")
    order = "id", "text", "dataset", "others", "image_id"
    rows = rows.select([*columns, "others", "image_id", "embedding_id"]).append_column("text", inventory.text_ids(rows))
    rows = _with_choices(distinct(rows, *order).sort_by([(name, "ascending") for name in order]), inventory)
    if "path" in columns:
        paths = pa.array(map(mask, rows["path"].to_pylist()), pa.string())  # beside.with_paths restores the addresses
        rows = rows.set_column(rows.column_names.index("path"), "path", paths)
    index = rows.select([*columns, "choices"]).append_column(
        "shape", pa.array(inventory.shapes(rows), pa.list_(pa.int64()))
    )
    stores = [("latents", rows["id"], inventory.latents), (KINDS["caption"], rows["text"], inventory.text)]
    if inventory.images is not None:
        stores.append((KINDS["clip"], inventory.image_ids(rows), inventory.images))
    for kind, ids, store in stores:
        places = place_columns(ids, store.places())
        in_store = pc.not_equal(ids, "")
        if inventory.source.stream and kind != KINDS["caption"]:  # clips are encoded later, pictures already are
            in_store = pc.and_(in_store, pc.not_equal(ids, rows["id"]))
        if pc.any(pc.and_(in_store, pc.equal(places["file"], ""))).as_py():
            raise Damaged(store.folder, "has lost rows during the preparation")
        for name in places.column_names:
            index = index.append_column(f"{kind}_{name}", places[name])
    return index.combine_chunks()


def _with_choices(rows: pa.Table, inventory: Inventory) -> pa.Table:
    """Each row, followed by one row for each of its other captions. ``choices`` is the number of a row's captions, and
    0 in the rows that follow it."""
    others = [json.loads(value or "[]") for value in rows["others"].to_pylist()]
    counts = np.array([1 + len(each) for each in others], dtype=np.int64)
    first = np.cumsum(counts) - counts
    rows = rows.take(pa.array(np.repeat(np.arange(len(counts)), counts)))
    choices = np.zeros(len(rows), dtype=np.int64)
    choices[first] = counts
    if len(rows) > len(counts):
        values = rows["caption"].to_pylist()
        for place, each in zip(first.tolist(), others, strict=True):
            values[place + 1 : place + 1 + len(each)] = each
        rows = rows.set_column(rows.column_names.index("caption"), "caption", pa.array(values, pa.string()))
        rows = rows.set_column(rows.column_names.index("text"), "text", inventory.text_ids(rows))
    return rows.append_column("choices", pa.array(choices))


def _tokens(inventory: Inventory, index: pa.Table) -> list[int]:
    """The number of tokens of each caption, including the negative prompt; it warns of those that are cut."""
    rows = distinct(index.select(["caption", *(f"{KINDS['caption']}_{part}" for part in Place._fields)]), "caption")
    places = [Place(*list(row.values())[1:]) for row in rows.to_pylist()]
    places += inventory.text.find([address(inventory.source.negative_prompt)])
    tokens = inventory.text.read(dict.fromkeys(places), "tokens")
    cut = sum(count > inventory.models.max_sequence_length for count in tokens)
    if cut:
        log.warning(
            "%d of %d captions have more tokens than model.max_sequence_length = %d, which are cut off: raise it, or "
            "shorten them",
            cut,
            len(tokens),
            inventory.models.max_sequence_length,
        )
    return [int(count) for count in tokens]


def _card(inventory: Inventory, index: pa.Table, bad: Sequence[Row]) -> dict[str, Any]:
    """The content of card.json: counts and settings."""
    source, samples = inventory.source, unequal(index, choices=0)
    parts = _counts(samples["dataset"])
    counts = [parts.get(number, 0) for number in range(len(source.parts))]
    datasets = zip(source.parts, counts, source.passes(counts), strict=True)
    tokens, most = _tokens(inventory, index), inventory.models.max_sequence_length
    without_pixels = len(among(samples, "dataset", _of_latents(inventory)))
    return {
        "clips": len(samples),
        "skipped": len(bad),
        "repeated": _names(equal(inventory.rows, error="")) - _names(index),
        "equal_rows": len(equal(inventory.rows, error="")) - len(samples),
        "reasons": _reasons(bad),
        "captions": len(index["caption"].unique()),
        "captions_cut": sum(count > most for count in tokens),
        "tokens": {"median": int(np.median(tokens)), "most": max(tokens), "taken": most},
        "latent_shape": list(inventory.sample_shape),
        "buckets": dict(Counter("x".join(map(str, row["shape"])) for row in rows_of(samples.select(["shape"])))),
        "datasets": [
            {"name": part.name, "place": mask(str(part.place)), "rows": count, "passes": often}
            for part, count, often in datasets
        ],
        "streamed": source.stream,
        "latents": inventory.models.codec,
        KINDS["caption"]: inventory.models.encoder,
        **({"without_pixels": without_pixels} if without_pixels else {}),
        **_embeddings(inventory, samples),
        **cropped(source, distinct(equal(inventory.rows, error=""), "id", "dataset", "caption")),
    } | ({KINDS["clip"]: inventory.models.images} if inventory.models.images else {})


def _embeddings(inventory: Inventory, samples: pa.Table) -> dict[str, Any]:
    """Number of samples with a text embedding of their dataset, and its largest distance from the encoder's own."""
    if not inventory.distances:
        return {}
    ids = pc.unique(inventory.rows["embedding_id"])
    count = len(among(samples, f"{KINDS['caption']}_id", ids))
    distance = float(f"{max(inventory.distances.values()):.2g}")
    return {"text_embeddings": {"clips": count, "compared": len(inventory.compared), "distance": distance}}


def _names(rows: pa.Table) -> int:
    """Number of distinct videos by dataset and name; videos with equal content and caption share one row of the
    index."""
    return len(distinct(unequal(rows, video=""), "dataset", "video"))


def _counts(column: pa.ChunkedArray) -> dict[Any, int]:
    return {row["values"]: row["counts"] for row in column.value_counts().to_pylist()}


def summary(card: Mapping[str, Any]) -> str:
    """A cache's card in one line."""
    buckets = ", ".join(f"{count} of {shape}" for shape, count in card["buckets"].items())
    cut = f", {card['captions_cut']} captions cut" if card.get("captions_cut") else ""  # older cards lack this key
    silent = sum(card.get(key, 0) for key in ("silent", "partly_silent"))
    cut += f", {silent} silent at least in part" if silent else ""
    latents = card.get("without_pixels", 0)
    cut += f", {latents} of them latents without pixels, which no contact sheet shows" if latents else ""
    if texts := card.get("text_embeddings"):
        cut += (
            f", {texts['clips']} of them with their own text embedding ({texts['compared']} compared with the encoder: "
            f"{texts['distance']:g} apart at most)"
        )
    return f"{card['clips']} kept, {card['skipped']} left out{cut}; latents C x t x h x w: {buckets}"


def _earlier_lines(path: Path, now: str) -> str:
    """The lines of the quarantine list that ``now`` lacks: clips that could not be encoded during a training."""
    if not path.is_file():
        return ""
    lines = path.read_text(errors="replace").splitlines()
    return "".join(f"{line}\n" for line in lines if line not in now.splitlines())


def _write(inventory: Inventory, folder: Path, index: pa.Table, card: Row, quarantine: str) -> None:
    places = inventory.text.find([address(caption) for caption in (inventory.source.negative_prompt, "")])
    fields = of_captions(inventory.models.fields)
    stored = {name: inventory.text.read(places, name) for name in fields}
    prompts = {
        key: array
        for number, which in enumerate(("negative", "null"))
        for key, array in prompt_arrays(which, {name: both[number] for name, both in stored.items()}, fields).items()
    }
    durable.write(
        folder / QUARANTINE, quarantine + _earlier_lines(folder / QUARANTINE, quarantine) * inventory.source.stream
    )
    _sheet(inventory, folder / SHEET, index)
    write(folder, index, card, prompts)
