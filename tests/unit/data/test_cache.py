import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save_file

from ray_distill.data.batches import micro_batches
from ray_distill.data.cache import Cache
from ray_distill.data.plan import Plan
from ray_distill.data.stream import Stream
from ray_distill.types import Placement

SHAPE, LENGTH, WIDTH = (2, 3, 2, 2), 4, 5
IDS = [50, 20, 90, 10, 70, 30, 60]
NEGATIVE = np.full((LENGTH, WIDTH), -1, dtype=np.float32)


def latents(number):
    return np.random.default_rng(number).standard_normal(SHAPE, dtype=np.float32)


def text(number):
    """One to three tokens; the encoder's padding is not stored."""
    return np.random.default_rng(1000 + number).standard_normal((1 + number // 10 % 3, WIDTH), dtype=np.float32)


def row(number, error=""):
    arrays = {
        "latents": None if error else latents(number).tobytes(),
        "text": None if error else text(number).tobytes(),
    }
    return {
        "id": number,
        "dataset": 0,
        "video": f"{number}.mp4",
        "caption": f"caption {number % 20}",
        "error": error,
        **arrays,
    }


@pytest.fixture
def cache(tmp_path):
    """Two files; 70 stands in both, 40 could not be read, and the second file has two row groups."""
    (tmp_path / "rows").mkdir()
    kinds = {"id": pa.int64(), "dataset": pa.int64(), "latents": pa.binary(), "text": pa.binary()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in row(0)])
    first = [row(50), row(20), row(40, "40.mp4: no frames"), row(70)]
    second = [row(90), row(10), row(70), row(30), row(60)]
    pq.write_table(pa.Table.from_pylist(first, schema), tmp_path / "rows" / "b.parquet")
    pq.write_table(pa.Table.from_pylist(second, schema), tmp_path / "rows" / "a.parquet", row_group_size=3)
    save_file({"negative": NEGATIVE}, tmp_path / "prompts.safetensors")
    (tmp_path / "card.json").write_text(json.dumps({"clips": 7, "latent_shape": SHAPE, "datasets": [{"passes": 1.0}]}))
    return Cache(tmp_path)


def test_rows_are_numbered_by_id_without_the_bad_and_the_doubled(cache):
    assert [entry[0] for entry in cache.index] == sorted(IDS)
    assert cache.buckets() == {SHAPE: list(range(7))}


def test_what_was_written_is_read(cache):
    rows = cache.rows([6, 0, 3], ["id", "latents", "text"])
    assert [r["id"] for r in rows] == [90, 10, 50]
    assert np.array_equal(cache.latents(rows), np.stack([latents(n) for n in (90, 10, 50)]))
    padded = cache.text(rows)
    assert padded.shape == (3, LENGTH, WIDTH) and padded.dtype == np.float32
    for got, number in zip(padded, (90, 10, 50), strict=True):
        tokens = text(number)
        assert np.array_equal(got[: len(tokens)], tokens) and not got[len(tokens) :].any()
    assert np.array_equal(cache.uncond, NEGATIVE)
    assert cache.captions() == ["caption 0", "caption 10"]


def stream_of(cache, **changes):
    large = Stream(cache, 0, 0, 9, world=2, global_batch=8, micro_batch=2, with_latents=True)
    stream = replace(large, block_bytes=4 * (large.block_bytes // large.steps_per_block))
    assert stream.steps_per_block == 4
    return replace(stream, **changes)


class Shard:
    """One rank's share, as Ray Data hands it out: block k to rank k mod world, cut into batches across blocks."""

    def __init__(self, stream, rank):
        parts = -(-(stream.steps - stream.start) // stream.steps_per_block)
        blocks = [stream.block(part * stream.world + rank) for part in range(parts)]
        self.rows = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}

    def iter_batches(self, *, batch_size, batch_format, prefetch_batches):
        assert batch_format == "numpy"
        for start in range(0, len(self.rows["sample_id"]), batch_size):
            yield {name: array[start : start + batch_size] for name, array in self.rows.items()}


def delivered(stream, rank, shard=None):
    placement = Placement(rank, stream.world)
    return list(micro_batches(stream, shard or Shard(stream, rank), placement, torch.device("cpu")))


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("world", [1, 2])
def test_each_sample_of_each_step_comes_once_and_is_what_the_plan_says(cache, start, world):
    stream = stream_of(cache, start=start, world=world)
    plan, ids = Plan(cache.buckets(), 0, 8), sorted(IDS)
    ranks = [delivered(stream, rank) for rank in range(world)]
    assert {len(steps) for steps in ranks} == {9 - start}
    for step in range(start, 9):
        batches = [batch for steps in ranks for batch in steps[step - start]]
        assert torch.cat([b.sample_ids for b in batches]).tolist() == list(range(8 * step, 8 * step + 8))
        wanted = np.stack([latents(ids[number]) for number in plan[step]])
        assert np.array_equal(torch.cat([b.x_0 for b in batches]).numpy(), wanted)
        for batch, number in zip(batches, plan[step][::2], strict=True):
            tokens = text(ids[number])
            assert np.array_equal(batch.cond["text"][0, : len(tokens)].numpy(), tokens)
            assert np.array_equal(batch.uncond["text"][1].numpy(), NEGATIVE)
            assert batch.latent_shape == SHAPE and len(batch.sample_ids) == 2


def test_a_method_without_latents_reads_none(cache):
    stream = stream_of(cache, with_latents=False)
    assert set(stream.block(0)) == {"sample_id", "text"}
    assert delivered(stream, 1)[0][0].x_0 is None


def test_rows_of_another_rank_or_step_are_refused(cache):
    stream = stream_of(cache)
    with pytest.raises(RuntimeError, match="rank 0, step 0: the data plan says samples .0 1.*samples .4 5"):
        delivered(stream, 0, Shard(stream, 1))
    with pytest.raises(RuntimeError, match="rank 1, step 3"):
        delivered(replace(stream, start=3), 1, Shard(stream, 1))
