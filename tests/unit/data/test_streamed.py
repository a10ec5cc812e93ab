"""Training that begins while its clips are encoded has the same rows in the same order, whenever they arrive."""

import logging
import pickle
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from ray.data import DataContext
from ray.data._internal import progress

from ray_distill import sealed
from ray_distill.data.feed.order import substitutes
from ray_distill.data.feed.stream import Stream, quiet
from ray_distill.data.store import growing
from ray_distill.data.store.cache import CARD, Cache
from ray_distill.data.store.growing import Growing
from ray_distill.data.store.parquet import Store
from tests.unit.data import caches
from tests.unit.data.caches import FIELDS, SHAPES

SQUARE, WIDE = list(range(0, 12)), list(range(20, 31))


def stream_of(cache, **changes):
    return replace(
        Stream(cache, 0, 0, 12, world=2, global_batch=4, micro_batch=2, with_latents=True, fields=FIELDS), **changes
    )


def test_ray_datas_own_plans_and_bars_are_hidden(monkeypatch):
    monkeypatch.setattr(DataContext.get_current(), "enable_progress_bars", True)
    quiet()
    assert not DataContext.get_current().enable_progress_bars
    assert not logging.getLogger("ray.data").isEnabledFor(logging.INFO)
    assert not progress.logger.isEnabledFor(logging.WARNING)


@pytest.fixture
def both(tmp_path):
    """(a prepared cache, the same cache while it grows: its store is empty, and its index has no places of latents)."""
    whole = caches.make(tmp_path / "whole", [SQUARE, WIDE])
    other = caches.make(tmp_path / "streamed", [SQUARE, WIDE])
    sealed.write_json(other.folder / CARD, other.card | {"streamed": True})
    for path in other.latents_folder.iterdir():
        path.unlink()
    return whole, Cache(other.folder)


def shape_of(number):
    return SHAPES[0] if number in SQUARE else SHAPES[1]


def encode(cache, numbers):
    Store(cache.latents_folder).write(
        [{"id": str(n), "latents": caches.latents(n, shape_of(n)).tobytes()} for n in numbers]
    )


def equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_blocks_wait_for_their_rows_and_are_those_of_a_prepared_cache(both, monkeypatch):
    _, streamed = both
    monkeypatch.setattr(growing, "LOOK_S", 0.01)
    prepared, live = (stream_of(cache, block_bytes=1) for cache in both)
    assert prepared.steps_per_block == live.steps_per_block == 1 and not prepared.waits and live.waits
    ids = [int(id_) for id_ in streamed.index["id"].to_pylist()]
    order = [ids[row] for row in live.row_order()]
    assert sorted(order) == SQUARE + WIDE
    asked = threading.Thread(target=lambda: [encode(streamed, [n]) or time.sleep(0.01) for n in order])
    asked.start()
    assert all(equal(live.block(number), prepared.block(number)) for number in range(24))
    asked.join()


def test_rows_are_needed_in_the_plans_order_from_the_start_on(both):
    stream = stream_of(both[1], start=5)
    seen = list(dict.fromkeys(row for step in range(5, 40) for row in stream.plan[step].tolist()))
    assert stream.row_order() == seen and len(seen) == 23


def test_a_row_that_cannot_be_encoded_has_a_substitute_of_its_size_and_no_other_row_moves(both):
    _, streamed = both
    ids = [int(id_) for id_ in streamed.index["id"].to_pylist()]
    bad = {3, 25}
    encode(streamed, [n for n in SQUARE + WIDE if n not in bad])
    Store(streamed.latents_folder).write_errors({str(n): "cannot be decoded" for n in bad})
    stream = stream_of(streamed, world=1, steps=60)
    epochs = {3: set(), 25: set()}
    for step in range(60):
        latents = stream_of(streamed, world=1, steps=60, start=step, block_bytes=1).block(0)["latents"]
        for row, got in zip(stream.plan[step], latents, strict=True):
            number = ids[row]
            if number not in bad:
                assert got == caches.latents(number, shape_of(number)).tobytes()
                continue
            bucket = next(rows for rows in stream.buckets.values() if row in rows)
            order = substitutes(bucket, 0, step // stream.plan.steps_per_epoch, int(row))
            wanted = next(ids[other] for other in order if ids[other] not in bad)
            assert got == caches.latents(wanted, shape_of(number)).tobytes()
            epochs[number].add(wanted)
    assert all(len(others) > 1 for others in epochs.values()), "another one in another epoch"


def test_a_size_of_which_nothing_can_be_decoded_ends_the_run(both):
    _, streamed = both
    encode(streamed, SQUARE)
    Store(streamed.latents_folder).write_errors({str(n): "cannot be decoded" for n in WIDE})
    with pytest.raises(ValueError, match="none of the 11 clips of one size can be decoded"):
        for number in range(24):
            stream_of(streamed, block_bytes=1).block(number)


def test_what_never_comes_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(growing, "WAIT_S", 0.05)
    store = Growing(tmp_path)
    Store(tmp_path).write([{"id": "a", "latents": b"1"}])
    store.wait_for(["a"])
    with pytest.raises(TimeoutError, match="1 clips are waited for: do the encoders"):
        store.wait_for(["a", "b"])
    assert Growing(tmp_path / "none").look() is False


def test_each_of_thousands_of_fetch_tasks_carries_a_stream(both):
    stream = stream_of(both[0], block_bytes=1)
    assert stream.block(0) and stream.cache.card and stream.cache.prompts
    assert len(pickle.dumps(stream)) < 1000
    assert equal(pickle.loads(pickle.dumps(stream)).block(3), stream.block(3))
