"""Several captions of one clip: one row each in the index, from which every sample draws one."""

import json
from collections import Counter
from importlib import metadata

import numpy as np
import pytest

from ray_distill.data.encoders import Encoders
from ray_distill.data.feed.order import caption_numbers
from ray_distill.data.feed.stream import Stream
from ray_distill.data.prepare.index import summary
from ray_distill.data.store.cache import Cache
from ray_distill.models.pipeline import Pipeline
from tests.unit.data import odd
from tests.unit.data.test_cache import delivered
from tests.unit.data.test_index import DIGITS, MODELS, characters, embedded, make, source

__all__ = ["characters"]  # no text encoder
WORDS = {"a.mp4": ["one", "two", "three"], "b.mp4": ["four"], "c.mp4": ["five", "six"], "d.mp4": ["one", "seven"]}


@pytest.fixture
def cache(tmp_path):
    for scale, name in enumerate(WORDS, 4):  # sizes differ, and so do latents
        odd.write(tmp_path / name, size=(12 * scale, 16 * scale))
    rows = [{"video": name, "caption": words} for name, words in WORDS.items()]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return make(source(tmp_path, {"manifest": tmp_path / "m.jsonl"}))[0]


def stream(cache, **given):
    settings = {"seed": 3, "start": 0, "steps": 200, "world": 1, "global_batch": 2, "micro_batch": 1}
    return Stream(cache, with_latents=True, fields=MODELS.fields, **(settings | given))


def drawn(cache, world=1, **given):
    """(video, caption) of each sample, in the order of their ids."""
    words = {word for words in WORDS.values() for word in words}
    texts = {embedded(word)[0].numpy().tobytes(): word for word in words}
    first = np.flatnonzero(cache.choices).tolist()
    latents = {row["latents"]: row["video"] for row in cache.rows(first, ["latents", "video"])}
    steps = stream(cache, world=world, **given)
    found = {}
    for rank in range(world):
        for step in delivered(steps, rank):
            for batch in step:
                for number, x_0, text in zip(batch.sample_ids.tolist(), batch.x_0, batch.cond["text"], strict=True):
                    found[number] = latents[x_0.numpy().tobytes()], texts[text.numpy().tobytes()]
    return [found[number] for number in sorted(found)]


def test_a_clip_is_one_sample_however_many_captions_it_has(cache):
    assert len(cache.index) == 8 and cache.choices.sum() == 8 and sorted(cache.choices.tolist())[-4:] == [1, 2, 2, 3]
    for first in np.flatnonzero(cache.choices).tolist():
        rows = cache.rows(range(first, first + cache.choices[first]), ["video", "caption", "id"])
        assert [row["caption"] for row in rows] == WORDS[rows[0]["video"]] and len({row["id"] for row in rows}) == 1
    assert cache.card["clips"] == 4 and cache.card["captions"] == 7 and cache.card["datasets"][0]["rows"] == 4
    assert set(cache.card["buckets"].values()) == {4} and len(cache.captions()) == 7
    assert stream(cache).left_out == 0 and stream(cache).plan.steps_per_epoch == 2


def test_each_sample_draws_one_of_its_clips_captions(cache):
    samples = drawn(cache)
    assert all(caption in WORDS[video] for video, caption in samples)
    for epoch in range(0, len(samples), 4):
        assert {video for video, _ in samples[epoch : epoch + 4]} == set(WORDS)
    counts = Counter(samples)
    for video, words in WORDS.items():  # 100 draws a clip: 4 standard deviations are 20 at most
        assert all(abs(counts[video, word] - 100 / len(words)) < 20 for word in words)


def test_a_draw_is_the_same_in_all_worlds_and_after_a_resume(cache):
    samples = drawn(cache)
    assert drawn(cache, world=2) == samples and drawn(cache, start=37) == samples[74:]
    other = drawn(cache, seed=4)
    assert Counter(other).keys() == Counter(samples).keys() and other != samples


def test_other_choices_are_another_cache(cache, tmp_path):
    text = (tmp_path / "m.jsonl").read_text()
    (tmp_path / "m.jsonl").write_text(text.replace('"two", "three"', '"two"'))
    other, (captions, clips) = make(source(tmp_path, {"manifest": tmp_path / "m.jsonl"}))
    assert other.folder != cache.folder and len(other.index) == 7 and captions == clips == []


def test_draws_are_of_the_seed_and_the_sample():
    ids, counts = np.arange(4000), np.full(4000, 4)
    one = caption_numbers(0, ids, counts)
    assert np.array_equal(caption_numbers(0, ids[100:200], counts[100:200]), one[100:200]) and set(one) == {0, 1, 2, 3}
    assert np.abs(np.bincount(one) - 1000).max() < 4 * 27.4  # sqrt(4000 x 1/4 x 3/4)
    assert np.mean(caption_numbers(1, ids, counts) == one) < 0.3 and not caption_numbers(0, ids, np.ones(4000)).any()


def test_an_index_of_an_earlier_version_has_one_caption_a_row(cache, monkeypatch):
    table = cache.index.drop_columns("choices")
    monkeypatch.setattr(Cache, "index", property(lambda self: table))
    assert Cache(cache.folder).choices.tolist() == [1] * 8


def test_captions_that_are_cut_are_counted(tmp_path, caplog):
    """Characters has one token per letter and one more; the model takes 8."""
    lines = ["short", "1234567", "a longer one", {"caption": ["fits", "does not fit"]}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = source(tmp_path, {"prompts": tmp_path / "p.jsonl"}, negative_prompt="much too long")
    cache, _ = make(settings)
    assert cache.card["captions_cut"] == 3 and cache.card["captions"] == 5
    assert "3 of 6 captions have more tokens than model.max_sequence_length = 8" in caplog.text
    assert summary(cache.card).startswith("4 kept, 0 left out, 3 captions cut; ")
    again, (captions, _) = make(settings.model_copy(update={"caption_dropout": 0.5}))
    assert captions == [] and again.card["captions_cut"] == 3  # out of the store
    few, _ = make(source(tmp_path, {"prompts": tmp_path / "p.jsonl"}), Encoders(Pipeline("wan", DIGITS), 16))
    assert few.card["captions_cut"] == 0 and "cut" not in summary(few.card)
    del few.card["captions_cut"]
    assert summary(few.card).startswith("4 kept")  # a card of an earlier version


def test_a_prompt_that_its_teacher_cannot_take_is_counted_once(tmp_path):
    (tmp_path / "p.jsonl").write_text('"a kite"\n{"caption": ["a", "b"]}\n')
    part = {"prompts": tmp_path / "p.jsonl", "teacher": {"steps": 2, "clips_per_prompt": 3}}
    cache, _ = make(source(tmp_path, part))
    assert (cache.card["clips"], cache.card["skipped"]) == (3, 1)
    (row,) = map(json.loads, (cache.folder / "quarantine.jsonl").read_text().splitlines())
    assert row["file"] == "p.jsonl, line 2" and row["reason"].startswith("the teacher makes a video of one caption")


def test_cleaning_is_part_of_the_texts_address(monkeypatch):
    address = Encoders(Pipeline("wan", DIGITS), 8).encoder
    assert Encoders(Pipeline("wan", DIGITS), 8).encoder == address
    monkeypatch.setattr(metadata, "version", lambda name: "0")
    assert Encoders(Pipeline("wan", DIGITS), 8).encoder != address


def test_tiles_are_part_of_the_latents_address():
    whole, tiles = (Encoders(Pipeline("wan", DIGITS), 8, vae_tiling=tiling) for tiling in (False, True))
    assert whole.codec != tiles.codec and whole.encoder == tiles.encoder
