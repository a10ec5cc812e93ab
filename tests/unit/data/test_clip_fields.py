"""A field of a clip, through all phases: encoded beside latents, stored, streamed, joined to batches, sampled."""

import numpy as np
import pytest
import torch

from ray_distill.data.encoders import Encoders
from ray_distill.data.feed.stream import Stream
from ray_distill.data.prepare.encode import EncodeClips
from ray_distill.data.prepare.inventory import Inventory
from ray_distill.data.prepare.listing import LISTED
from ray_distill.data.prepare.stages import CLIPS, Decode, Look
from ray_distill.data.prepare.teach import MakeClips
from ray_distill.data.source import Teacher
from ray_distill.data.store import growing
from ray_distill.data.store.cache import KINDS
from ray_distill.data.store.parquet import address
from ray_distill.data.store.tables import rows_of, table_of
from ray_distill.errors import ConfigError
from ray_distill.evaluate.generate import _captions
from ray_distill.evaluate.latents import make_latents
from ray_distill.models import FAMILIES
from ray_distill.models.conditions import collate, unconditional
from ray_distill.models.pipeline import Pipeline
from ray_distill.types import Sampler
from tests.toy_family import ToyDenoiser
from tests.unit.data import caches, odd
from tests.unit.data.test_cache import delivered
from tests.unit.data.test_index import DIGITS, MODELS, Characters, characters, columns, listing, make, source, written

__all__ = ["characters"]  # no text encoder


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(FAMILIES, "toy", "tests.toy_family")
    return Encoders(Pipeline("toy", DIGITS), 8)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for scale, name in enumerate(("a", "b", "c", "d"), 4):  # sizes differ, and so do latents
        odd.write(tmp_path / f"in/{name}.mp4", size=(12 * scale, 16 * scale))
    return tmp_path


def test_it_is_stored_under_its_clip_beside_the_latents_of_other_families(folder, toy):
    plain, _ = make(source(folder))
    cache, (captions, clips) = make(source(folder), toy)
    assert len(captions) == 5 and len(clips) == 4  # in bf16, and with ``first``
    assert cache.card["latents"] == plain.card["latents"] and cache.card["images"] and "images" not in plain.card
    assert cache.folder != plain.folder and cache.card["text"] != plain.card["text"]
    latents = cache.latents(cache.rows(range(4), ["latents", "shape"]))
    cond = caches.conditions(cache, range(4), toy.fields)
    assert np.array_equal(cond["first"], latents[:, :, 0]) and len({row.tobytes() for row in cond["first"]}) == 4
    for store in ("latents", "images"):
        ids = cache.index[f"{store}_id"].to_pylist()
        assert ids == cache.index["id"].to_pylist()
    assert make(source(folder)) == (plain, ([], []))
    (path,) = list((folder / "cache/images").glob("*/*.parquet"))
    path.unlink()
    again, (_, clips) = make(source(folder), toy)
    assert len(clips) == 4 and np.array_equal(caches.conditions(again, range(4), toy.fields)["first"], cond["first"])


def test_it_comes_with_each_sample_and_stays_in_the_unconditional_branch(folder, toy):
    cache, _ = make(source(folder, negative_prompt="bad"), toy)
    how = {"world": 1, "global_batch": 2, "micro_batch": 2, "fields": toy.fields}
    batches = [b for step in delivered(Stream(cache, 0, 0, 8, with_latents=True, **how), 0) for b in step]
    negative = collate(Characters(toy).encode(["bad"]), {"text": toy.fields["text"]})
    for batch in batches:
        assert torch.equal(batch.cond["first"], batch.x_0[:, :, 0])
        assert torch.equal(batch.uncond["first"], batch.cond["first"])
        assert batch.cond.keys() == batch.uncond.keys() == {"text", "text_mask", "first"}
        assert batch.cond["text"].dtype == torch.bfloat16 and batch.cond["text_mask"].sum(1).tolist() == [2, 2]
        assert torch.equal(batch.uncond["text"], negative["text"].bfloat16().expand(2, -1, -1))
        assert batch.uncond["text_mask"].sum(1).tolist() == [4, 4]
    dropped = Stream(cache, 0, 0, 8, with_latents=True, caption_dropout=0.999999, **how)
    for batch, plain in zip((b for step in delivered(dropped, 0) for b in step), batches, strict=True):
        assert (
            torch.equal(batch.cond["first"], plain.cond["first"]) and batch.cond["text_mask"].sum() == 2
        )  # "" has one
    alone = Stream(cache, 0, 0, 8, with_latents=False, **how)
    for batch, plain in zip((b for step in delivered(alone, 0) for b in step), batches, strict=True):
        assert batch.x_0 is None and torch.equal(batch.cond["first"], plain.cond["first"])


def test_clips_that_are_encoded_beside_the_training_are_waited_for_with_it(folder, toy):
    whole, _ = make(source(folder), toy)
    streamed, _ = make(source(folder / "other", {"videos": folder / "in", "captions": "filename"}, stream=True), toy)
    for store in ("latents", "images"):
        for path in (folder / "other/cache" / store).glob("*/*.parquet"):
            path.unlink()
    assert streamed.grows
    how = {"world": 1, "global_batch": 2, "micro_batch": 2, "fields": toy.fields, "with_latents": False}
    assert Stream(streamed, 0, 0, 4, **how).waits and not Stream(whole, 0, 0, 4, **how).waits
    looked = [row for entry in rows_of(listing(source(folder))) for row in Look(source(folder), toy.multiple)(entry)]
    made = Inventory(source(folder / "other", stream=True), toy, LISTED.empty_table(), table_of(looked, CLIPS))
    for decoded in Decode(source(folder))(columns(looked)):
        written(made, errors=True)(EncodeClips(toy)(decoded))
    growing.growing.cache_clear()
    for got, wanted in zip(*(delivered(Stream(c, 0, 0, 4, **how), 0) for c in (streamed, whole)), strict=True):
        assert torch.equal(got[0].cond["first"], wanted[0].cond["first"])


def test_prompts_alone_are_refused(folder, toy):
    (folder / "p.txt").write_text("a kite")
    part = source(folder, {"prompts": folder / "p.txt"})
    with pytest.raises(ConfigError, match="'p' has prompts alone, and this pipeline takes a picture with each"):
        Inventory(part, toy, listing(part), CLIPS.empty_table())
    Inventory(part, MODELS, listing(part), CLIPS.empty_table())


@torch.no_grad()
def test_a_teacher_and_the_evaluation_see_it(folder, toy):
    """The toy's x_0 is a number of the text plus ``first``: one Euler step ends on it, guided in the text alone."""
    cache, _ = make(source(folder, negative_prompt="bad"), toy)
    prompts, rows, numbers = _captions(cache, toy.fields, 3)
    assert [cache.index["caption"][number].as_py() for number in numbers] == prompts
    assert set(prompts) <= {"a", "b", "c", "d"} and rows[0].keys() == {"text", "first"}
    cond = collate(rows, toy.fields)
    (negative,) = ({"text": row["text"].bfloat16()} for row in Characters(toy).encode(["bad"]))
    uncond = unconditional(negative, cond, toy.fields)
    number = {p: float(r["text"].float().sum() / len(r["text"])) for p, r in zip(prompts, rows, strict=True)}
    null = float(negative["text"].float().sum() / len(negative["text"]))
    shape = cache.latent_shape
    made = make_latents(ToyDenoiser(None), Sampler((1000.0,), "ode", 3.0), cond, uncond, 0, 0, shape)
    wanted = torch.stack(
        [r["first"][:, None] + null + 3 * (number[p] - null) for p, r in zip(prompts, rows, strict=True)]
    )
    torch.testing.assert_close(made, wanted.expand_as(made), atol=1e-4, rtol=0)

    made_of = Inventory(source(folder), toy, LISTED.empty_table(), CLIPS.empty_table())
    (uncond_place,) = made_of.text.find([address("bad")])
    actor = MakeClips(toy, Teacher(steps=1, shift=1, guidance=3), shape, made_of.text, uncond_place, made_of.images)
    (clip,) = [row["id"] for row in cache.rows(range(4), ["id", "caption"]) if row["caption"] == prompts[0]]
    places = {KINDS["caption"]: made_of.text.find([address(prompts[0])]), KINDS["clip"]: made_of.images.find([clip])}
    asked = {f"{kind}_{part}": value for kind, (place,) in places.items() for part, value in place._asdict().items()}
    (latents,) = actor(columns([{"id": f"{7:015x}"} | asked]))["latents"]
    found = torch.from_numpy(np.frombuffer(latents, np.float32).copy()).reshape(shape)
    torch.testing.assert_close(found, wanted[0].expand(shape), atol=1e-4, rtol=0)
