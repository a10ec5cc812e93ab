import hashlib
from dataclasses import replace
from threading import Event

import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_distill.data.feed.batches import micro_batches
from ray_distill.data.feed.fetch import rows_ahead
from ray_distill.data.feed.order import Plan
from ray_distill.data.feed.stream import Stream
from ray_distill.data.store.parquet import PLACES, Place, Store, address, address_of, place_columns
from ray_distill.types import Placement
from tests.unit.data import caches
from tests.unit.data.caches import FIELDS, LENGTH, NEGATIVE, NULL, SHAPES, WIDTH, latents, text

WIDE, SQUARE = [20, 40, 60, 80, 90], [10, 30, 50, 70]
IDS = sorted(WIDE + SQUARE)


def shape_of(number):
    return SHAPES[0] if number in SQUARE else SHAPES[1]


@pytest.fixture
def cache(tmp_path):
    return caches.make(tmp_path, [SQUARE, WIDE])


def test_rows_are_numbered_by_the_index_and_bucketed_by_shape(cache):
    assert cache.index["id"].to_pylist() == [str(number) for number in IDS]
    assert cache.buckets() == {shape: [i for i, n in enumerate(IDS) if shape_of(n) == shape] for shape in SHAPES}
    assert cache.passes == [1.0] * 9


def test_what_was_written_is_read(cache):
    rows = cache.rows([6, 0, 2], ["id", "latents", "shape"])
    assert [r["id"] for r in rows] == ["70", "10", "30"]
    assert np.array_equal(cache.latents(rows), np.stack([latents(n, SHAPES[0]) for n in (70, 10, 30)]))
    padded = caches.conditions(cache, [6, 0, 2])["text"]
    assert padded.shape == (3, LENGTH, WIDTH) and padded.dtype == np.float32
    for got, number in zip(padded, (70, 10, 30), strict=True):
        tokens = text(number)
        assert np.array_equal(got[: len(tokens)], tokens) and not got[len(tokens) :].any()
    assert cache.prompt("negative", FIELDS) == {"text": NEGATIVE.tobytes()}
    assert cache.prompt("null", FIELDS) == {"text": NULL.tobytes()}
    assert cache.captions() == ["caption 0", "caption 10"]


def test_a_store_is_only_added_to_and_torn_files_are_not_there(tmp_path):
    store = Store(tmp_path)
    store.write([{"id": "a", "x": 1}, {"id": "b", "x": 2}])
    before = store.find(["a", "b"])
    store.write([{"id": "c", "x": 3}])
    store.write([{"id": "c", "x": 3}])
    (tmp_path / ".torn.parquet.1").write_bytes(b"PAR1")
    a, b, c = store.find("abc")
    assert len(list(tmp_path.glob("*.parquet"))) == 2
    assert [a, b] == before and len(store.places()) == 3
    assert store.read([c, a, c], "x") == [3, 1, 3]
    assert Store(tmp_path / "none").places() == PLACES.empty_table()
    assert place_columns(pa.array(["d", "b"]), store.places()).to_pylist()[1] == b._asdict()
    assert place_columns(pa.array(["d", "b"]), store.places()).to_pylist()[0] == Place("", -1, -1)._asdict()
    with pytest.raises(AssertionError, match="not all"):
        store.find(["a", "d"])
    assert address("a", 1) == address("a", 1) != address("a", 2) != address("a1")
    for parts in ((), ("a",), ("a", 1, None)):
        assert address_of(iter(parts)) == hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def test_one_row_reads_one_row_group(tmp_path):
    store = Store(tmp_path)
    store.write([{"id": str(n), "x": np.random.default_rng(n).bytes(700_000)} for n in range(4)])
    assert store.places()["group"].to_pylist() == [0, 1, 2, 3]


def stream_of(cache, **changes):
    large = Stream(cache, 0, 0, 9, world=2, global_batch=4, micro_batch=2, with_latents=True, fields=FIELDS)
    stream = replace(large, block_bytes=4 * (large.block_bytes // large.steps_per_block))
    assert stream.steps_per_block == 4
    return replace(stream, **changes)


class Shard:
    """One rank's share, as Ray Data hands it out: block k to rank k mod world, cut into batches across blocks."""

    def __init__(self, stream, rank):
        parts = -(-(stream.steps - stream.start) // stream.steps_per_block)
        blocks = [stream.block(part * stream.world + rank) for part in range(parts)]
        self.rows = {name: np.concatenate([np.array(block[name]) for block in blocks]) for name in blocks[0]}
        for name in blocks[0].keys() - {"sample_id", "shape"}:  # bytes, which numpy would cut at a zero
            self.rows[name] = np.array([row for block in blocks for row in block[name]], dtype=object)

    def iter_batches(self, *, batch_size, batch_format, prefetch_batches):
        assert batch_format == "numpy"
        for start in range(0, len(self.rows["sample_id"]), batch_size):
            yield {name: array[start : start + batch_size] for name, array in self.rows.items()}


def delivered(stream, rank, shard=None):
    placement = Placement(rank, stream.world, stream.seq)
    rows = rows_ahead(lambda: shard or Shard(stream, rank), stream.micro_batch)
    return list(micro_batches(stream, rows, placement, torch.device("cpu")))


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("world", [1, 2])
def test_each_sample_of_each_step_comes_once_and_is_what_the_plan_says(cache, start, world):
    stream = stream_of(cache, start=start, world=world)
    plan = Plan(cache.buckets(), 0, 4)
    ranks = [delivered(stream, rank) for rank in range(world)]
    assert {len(steps) for steps in ranks} == {9 - start}
    seen = set()
    for step in range(start, 9):
        batches = [batch for steps in ranks for batch in steps[step - start]]
        assert torch.cat([b.sample_ids for b in batches]).tolist() == list(range(4 * step, 4 * step + 4))
        numbers = [IDS[row] for row in plan[step]]
        assert {b.latent_shape for b in batches} == {shape_of(number) for number in numbers}
        wanted = np.stack([latents(number, shape_of(number)) for number in numbers])
        assert np.array_equal(torch.cat([b.x_0 for b in batches]).numpy(), wanted)
        for batch, number in zip(batches, numbers[::2], strict=True):
            tokens = text(number)
            assert np.array_equal(batch.cond["text"][0, : len(tokens)].numpy(), tokens)
            assert np.array_equal(batch.uncond["text"][1].numpy(), NEGATIVE)
            assert len(batch.sample_ids) == 2
        seen.add(batches[0].latent_shape)
    assert seen == set(SHAPES)


class Slow:
    """A shard whose rows come, or fail, once ``ready`` is set."""

    def __init__(self, rows):
        self.rows, self.asked, self.ready = rows, Event(), Event()

    def iter_batches(self, **_):
        self.asked.set()
        assert self.ready.wait(60)
        for row in self.rows:
            yield 1 / row


def test_the_first_rows_are_fetched_before_they_are_taken_and_an_error_when_they_are():
    for numbers, wanted in ((1, 2), [1, 0.5]), ((), []):
        shard = Slow(numbers)
        rows = rows_ahead(lambda shard=shard: shard, 2)
        assert shard.asked.wait(60)
        shard.ready.set()
        assert list(rows) == wanted
    shard = Slow([0])
    rows = rows_ahead(lambda shard=shard: shard, 2)
    shard.ready.set()
    with pytest.raises(ZeroDivisionError):
        next(rows)


def test_neighbours_that_share_clips_get_the_same_ones(cache):
    alone, shared = stream_of(cache, world=2), stream_of(cache, world=4, seq=2)
    assert shared.steps_per_block == alone.steps_per_block
    ranks = [delivered(alone, rank) for rank in range(2)]
    for rank in range(4):
        for own, step in zip(delivered(shared, rank), ranks[rank // 2], strict=True):
            for batch, wanted in zip(own, step, strict=True):
                assert torch.equal(batch.sample_ids, wanted.sample_ids) and torch.equal(batch.x_0, wanted.x_0)
                assert torch.equal(batch.cond["text"], wanted.cond["text"])
    with pytest.raises(RuntimeError, match=r"rank 2, step 0: the data plan says samples"):
        list(micro_batches(shared, rows_ahead(lambda: Shard(shared, 0), 2), Placement(2, 4, 2), torch.device("cpu")))


def test_a_method_without_latents_reads_none_and_has_the_shape(cache):
    stream = stream_of(cache, with_latents=False)
    assert set(stream.block(0)) == {"sample_id", "shape", "cond.text"}
    batches = [step[0] for step in delivered(stream, 1)]
    assert all(batch.x_0 is None for batch in batches) and {b.latent_shape for b in batches} == set(SHAPES)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("killed_at", [0, 1, 3])
def test_each_row_comes_exactly_once_an_epoch_with_a_kill_in_the_middle(tmp_path, world, killed_at):
    """Workers that are killed at any step start again from it, as many of them or not."""
    cache = caches.make(tmp_path, [list(range(12)), list(range(50, 62))])
    first = stream_of(cache, world=world, global_batch=6, micro_batch=1, steps=8)
    again = replace(first, start=killed_at, world=5 - world)
    batches = [step for rank in range(world) for step in delivered(first, rank)[:killed_at]]
    batches += [step for rank in range(5 - world) for step in delivered(again, rank)]
    seen = [(int(batch.sample_ids[0]), batch.x_0.numpy().tobytes()) for step in batches for batch in step]
    assert sorted(sample for sample, _ in seen) == list(range(48))
    everything = {latents(n, SHAPES[n >= 50]).tobytes() for n in (*range(12), *range(50, 62))}
    for epoch in range(2):
        those = [row for sample, row in seen if sample // 24 == epoch]
        assert len(those) == 24 and set(those) == everything


def test_states_of_the_teachers_trajectory_come_in_their_shape(cache):
    stream = stream_of(cache, world=1, states=2)
    shard = Shard(stream_of(cache, world=1), 0)
    shard.rows["states"] = np.array([2 * one for one in shard.rows["latents"]], dtype=object)
    for step in delivered(stream, 0, shard):
        for batch in step:
            assert torch.equal(batch.states, torch.stack([batch.x_0, batch.x_0], dim=1))


def test_small_buckets_are_kept_or_left_out_with_a_count(cache):
    assert stream_of(cache).left_out == 0 and set(stream_of(cache, global_batch=8).buckets) == set(SHAPES)
    dropped = replace(stream_of(cache), global_batch=5, micro_batch=1, world=1, keep_small_buckets=False)
    assert set(dropped.buckets) == {SHAPES[1]} and dropped.left_out == 4
    assert {batch.latent_shape for step in delivered(dropped, 0) for batch in step} == {SHAPES[1]}
    with pytest.raises(ValueError, match=r"no bucket has a global batch of 8 rows .* train.global_batch"):
        _ = replace(dropped, global_batch=8).buckets


def test_passes_come_from_the_card(tmp_path):
    cache = caches.make(tmp_path, [SQUARE, WIDE], [1.0, 3.0])
    assert cache.passes == [1.0 if number < 50 else 3.0 for number in IDS]
    stream = stream_of(cache, world=1, steps=5)  # 2 of 10 and 30, 2 x 3 of 50 and 70: 8 rows, 2 steps; 11 rows: 3 steps
    ids = torch.cat([batch.x_0[:, 0, 0, 0, 0] for step in delivered(stream, 0) for batch in step])
    times = {n: int((ids == float(latents(n, shape_of(n))[0, 0, 0, 0])).sum()) for n in IDS}
    assert all(times[n] == (1 if n < 50 else 3) for n in SQUARE) and sum(times[n] for n in WIDE) == 12


def test_rows_of_another_rank_or_step_are_refused(cache):
    stream = stream_of(cache)
    with pytest.raises(RuntimeError, match="rank 0, step 0: the data plan says samples .0 1.*samples .2 3"):
        delivered(stream, 0, Shard(stream, 1))
    with pytest.raises(RuntimeError, match="rank 1, step 3"):
        delivered(replace(stream, start=3), 1, Shard(stream, 1))


def test_dropped_captions_are_the_null_prompt_the_same_in_all_worlds_and_after_a_resume(cache):
    def nulls(world, start=0, **changes):
        stream = stream_of(cache, world=world, start=start, steps=100, caption_dropout=0.3, **changes)
        ranks = [delivered(stream, rank) for rank in range(world)]
        batches = [batch for step in range(100 - start) for steps in ranks for batch in steps[step]]
        ids = torch.cat([batch.sample_ids for batch in batches])
        found = torch.cat([(batch.cond["text"] == torch.from_numpy(NULL)).all(2).all(1) for batch in batches])
        assert ids.tolist() == list(range(4 * start, 400))
        return found.tolist()

    one = nulls(1)
    assert nulls(2) == one and nulls(2, start=37) == one[4 * 37 :] and nulls(1, seed=1) != one
    assert 0.24 < np.mean(one) < 0.36  # 3 standard deviations of 400 draws are 0.07
    per_epoch = np.array(one[: 400 // 12 * 12]).reshape(-1, 12)  # 9 rows in two buckets: 3 steps of 4
    assert len({tuple(row) for row in per_epoch.tolist()}) > 20
    assert not any(
        torch.equal(b.cond["text"][0], torch.from_numpy(NULL)) for s in delivered(stream_of(cache), 0) for b in s
    )
