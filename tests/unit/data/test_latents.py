"""Latents of another tool's parquet on their way into a cache, with each stage called by hand: no Ray."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ray_distill.data.encoders import Encoders
from ray_distill.data.feed.stream import Stream
from ray_distill.data.prepare.encode import EncodeClips, EncodeText
from ray_distill.data.prepare.foreign import PICTURES
from ray_distill.data.prepare.index import SHEET, finish, summary
from ray_distill.data.prepare.inventory import Inventory
from ray_distill.data.prepare.latents import LookLatents, ReadLatents
from ray_distill.data.prepare.listing import LISTED, listing
from ray_distill.data.prepare.stages import CLIPS, Decode, Look, Write
from ray_distill.data.source import Source
from ray_distill.data.store.tables import rows_of, table_of
from ray_distill.errors import ConfigError
from ray_distill.models.codec import load_codec
from ray_distill.models.pipeline import Pipeline
from ray_distill.train.driver.checks.evaluation import check_cache
from tests.parquet_latents import DIGITS, MEAN, SCHEMA, STD, raw, row, wan_model, write
from tests.unit.data import odd
from tests.unit.data.test_index import Characters, columns


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return wan_model(tmp_path_factory.mktemp("wan") / "model")


@pytest.fixture(autouse=True)
def characters(monkeypatch):
    monkeypatch.setattr(Encoders, "text_encoder", lambda models: Characters(models))


def source(folder, *datasets, **given):
    settings = {"frames": 9, "height": 32, "width": 32, "cache_dir": folder / "cache"} | given
    return Source(datasets=list(datasets) or [{"latents": folder / "in"}], **settings)


def looked(source, models):
    shapes, size = models.shapes_of_latents(source), (source.height, source.width)
    look = LookLatents(shapes, models.pipeline.statistics, size)
    video, latents = Look(source, models.multiple), source.numbers_of("latents")
    entries = rows_of(listing(source))
    return [clip for row in entries for clip in (look if row["dataset"] in latents else video)(row)]


def make(source, model, between=lambda: None):
    """Do what data/prepare/pipeline.py does with latents, without Ray; returns the cache and the ids that were read."""
    models = Encoders(Pipeline("wan", model), 8)
    made = Inventory(source, models, table_of([], LISTED), table_of(looked(source, models), CLIPS))
    between()
    if captions := made.missing_text().to_pylist():
        Write(made.text)(EncodeText(models)(columns(captions)))
    clips = made.missing_clips().to_pylist()
    if videos := [clip for clip in clips if clip["dataset"] not in source.numbers_of("latents")]:
        for some in Decode(source)(columns(videos)):
            Write(made.latents)(EncodeClips(models)(some))
    if clips := [clip for clip in clips if clip not in videos]:
        read = ReadLatents(models.shapes_of_latents(source), models.pipeline.statistics)
        for some in read(columns(clips)):
            done = Write(made.latents)({name: np.array(some[name], dtype=object) for name in some})
            made.mark_failed(dict(zip(done["id"], done["error"], strict=True)))
    return finish(made), [clip["id"] for clip in clips]


def quarantine(cache):
    lines = (cache.folder / "quarantine.jsonl").read_text().splitlines()
    return {line["file"]: line["reason"] for line in map(json.loads, lines)}


def expected(latents, frames=3):
    """(x - mean) / std by channel, in fp32."""
    mean, std = (np.float32(each)[:, None, None, None] for each in (MEAN, STD))
    return (latents[:, :frames] - mean) / std


def test_a_batch_equals_the_latents_that_went_in(tmp_path, model):
    clips = [raw(n) for n in range(5)]
    write(
        tmp_path / "in/rank_0/worker_0/data_chunk_0.parquet", [row(f"c{n}", clips[n], f"kite {n}") for n in range(3)], 2
    )
    write(tmp_path / "in/rank_0/worker_1/data_chunk_0.parquet", [row(f"c{n}", clips[n], f"kite {n}") for n in (3, 4)])
    cache, _ = make(source(tmp_path), model)
    fields = Encoders(Pipeline("wan", model), 8).fields
    stream = Stream(cache, 0, 0, 1, 1, 5, 5, True, fields)
    block = stream.block(0)
    rows = [
        {"latents": latents, "shape": tuple(shape)}
        for latents, shape in zip(block["latents"], block["shape"], strict=True)
    ]
    captions = [cache.index["caption"][int(number)].as_py() for number in stream.plan[0]]
    assert sorted(captions) == [f"kite {n}" for n in range(5)]
    assert np.array_equal(cache.latents(rows), np.stack([expected(clips[int(each[-1])]) for each in captions]))


def test_its_latents_are_those_of_the_codec_bit_for_bit(tmp_path, model):
    codec = load_codec(model / "vae")
    pixels = torch.rand(1, 3, 9, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        mode = codec.vae.encode(pixels).latent_dist.mode()[0].numpy()
    write(tmp_path / "in/a.parquet", [row("a", mode)])
    cache, _ = make(source(tmp_path), model)
    ours = codec.encode(pixels)[0].numpy()
    assert np.array_equal(cache.latents(cache.rows([0], ["latents", "shape"]))[0], ours)
    assert not np.array_equal(mode, ours)


def test_a_longer_clip_gives_its_first_frames_and_a_second_preparation_reads_nothing(tmp_path, model):
    long = raw(0, (16, 5, 4, 4))
    write(tmp_path / "in/a.parquet", [row("a", long)])
    cache, read = make(source(tmp_path), model)
    assert np.array_equal(cache.latents(cache.rows([0], ["latents", "shape"]))[0], expected(long)) and len(read) == 1
    assert make(source(tmp_path), model)[1] == []
    both = source(tmp_path, {"latents": tmp_path / "in"}, {"latents": tmp_path / "in", "frames": 17})
    again, read = make(both, model)
    assert len(read) == 1 and sorted(again.buckets()) == [(16, 3, 4, 4), (16, 5, 4, 4)]


def damaged(latents):
    latents[3, 1, 2, 0] = np.nan
    return latents


BAD = {
    "a caption that is missing": (row("n", raw(1), None), "no caption; if the preprocessing dropped it"),
    "a caption of spaces": (row("n", raw(1), " \n"), "no caption"),
    "half precision": (row("n", raw(1).astype(np.float16)), "its latents are float16, and float32 is read"),
    "no dtype": (row("n", raw(1), vae_latent_dtype=None), "its latents are None"),
    "a picture": (row("n", raw(1)[:, 0]), "its latents are 16x4x4, and this run needs C x t x h x w = 16x3x4x4"),
    "other channels": (row("n", raw(1, (4, 3, 4, 4))), "its latents are 4x3x4x4"),
    "too few frames": (row("n", raw(1, (16, 2, 4, 4))), "its latents are 16x2x4x4"),
    "another size": (row("n", raw(1, (16, 3, 4, 6))), "its latents are 16x3x4x6"),
    "bytes cut off": (row("n", raw(1), vae_latent_bytes=raw(1).tobytes()[:-4]), "bytes, and float32 of"),
    "no bytes": (row("n", raw(1), vae_latent_bytes=None), "bytes, and float32 of"),
    "no shape": (row("n", raw(1), vae_latent_shape=None), "its latents are without a shape"),
    "nan": (row("n", damaged(raw(1))), "its latents are not finite"),
    "infinite once normalised": (row("n", raw(1) + np.float32(3e38)), "its latents are not finite"),
}


def test_bad_rows_are_counted_and_named_and_cost_no_other_row(tmp_path, model, caplog):
    write(tmp_path / "in/a.parquet", [row("good", raw(0)), *(bad for bad, _ in BAD.values())])
    cache, _ = make(source(tmp_path), model)
    reasons = quarantine(cache)
    assert (cache.card["clips"], cache.card["skipped"]) == (1, len(BAD)) and len(reasons) == len(BAD)
    for number, (_, reason) in enumerate(BAD.values(), 2):
        assert reasons[f"a.parquet, row {number}"].startswith(reason) or reason in reasons[f"a.parquet, row {number}"]
    assert str(tmp_path) not in "".join(reasons.values())


def without(table, name):
    return table.drop_columns([name])


def test_bad_files_are_named_and_cost_no_other_file(tmp_path, model):
    good = pa.Table.from_pylist([row("good", raw(0))], SCHEMA)
    write(tmp_path / "in/good.parquet", [row("good", raw(0))])
    odd = {
        "captions": (good.select(["id", "caption"]), "no column vae_latent_bytes, vae_latent_shape, vae_latent_dtype"),
        "uncaptioned": (without(good, "caption"), "no column caption"),
        "pictures": (good.append_column(PICTURES[0], pa.array([b""])), "belongs to image to video"),
        "texts": (good.set_column(2, "vae_latent_shape", pa.array(["16x3x4x4"])), "vae_latent_shape holds string"),
        "empty": (good.slice(0, 0), "no row in it"),
    }
    for name, (table, _) in odd.items():
        pq.write_table(table, tmp_path / f"in/{name}.parquet")
    content = (tmp_path / "in/good.parquet").read_bytes()
    (tmp_path / "in/torn.parquet").write_bytes(content[: len(content) // 2])
    cache, _ = make(source(tmp_path), model)
    reasons = quarantine(cache)
    assert cache.card["clips"] == 1 and reasons.keys() == {f"{name}.parquet" for name in [*odd, "torn"]}
    for name, (_, reason) in odd.items():
        assert reason in reasons[f"{name}.parquet"]
    assert "not readable" in reasons["torn.parquet"]


def test_a_file_that_changes_after_the_look_is_left_out(tmp_path, model):
    path = tmp_path / "in/a.parquet"
    write(path, [row("a", raw(0)), row("b", raw(1))])
    cache, _ = make(source(tmp_path), model, lambda: write(path, [row("a", raw(0)), row("b", raw(2))]))
    assert cache.card["clips"] == 1
    assert quarantine(cache) == {"a.parquet, row 2": "was replaced since it was looked into"}


def test_what_needs_pixels_says_that_it_leaves_them_out(tmp_path, model):
    write(tmp_path / "in/a.parquet", [row("a", raw(0))])
    data = source(tmp_path)
    cache, _ = make(data, model)
    assert cache.card["without_pixels"] == 1 and "1 of them latents without pixels" in summary(cache.card)
    assert not (cache.folder / SHEET).exists() and not data.has_videos


def test_beside_videos_only_these_are_shown_and_measured(tmp_path, model):
    (tmp_path / "videos").mkdir()
    odd.write(tmp_path / "videos/clip.mp4", frames=9)
    write(tmp_path / "in/a.parquet", [row("a", raw(0)), row("b", raw(1))])
    parts = {"videos": tmp_path / "videos", "captions": "filename"}, {"latents": tmp_path / "in"}
    data = source(tmp_path, *parts, resample=False)
    cache, _ = make(data, model)
    assert (cache.card["clips"], cache.card["without_pixels"], len(cache.buckets())) == (3, 2, 1)
    assert (cache.folder / SHEET).exists() and data.has_videos
    settings = {"metric": DIGITS / "metric", "enabled": True}
    config = SimpleNamespace(data=data, evaluate=SimpleNamespace(**settings))
    with pytest.raises(ConfigError, match="the metric compares distributions, and data has 1 clips"):
        check_cache(config, cache)


def test_a_codec_without_statistics_is_refused_by_name():
    message = "vae/config.json of PatchPCA has no latents_mean and latents_std for 16 channels"
    with pytest.raises(ValueError, match=message):
        Pipeline("wan", DIGITS).statistics  # noqa: B018


@pytest.mark.parametrize(
    ("key", "value"), [("stride", 2), ("caption", "a kite"), ("image_column", "image"), ("captions", "lines")]
)
def test_a_key_without_effect_is_refused(tmp_path, key, value):
    with pytest.raises(ValueError, match=rf"{key} = {value}: latents are as they were encoded"):
        source(tmp_path, {"latents": tmp_path, key: value})
