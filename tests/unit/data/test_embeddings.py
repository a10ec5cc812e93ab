"""Text embeddings of another tool's parquet on their way into a cache: the digits' own UMT5, each stage by hand."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_distill.config import ConfigError
from ray_distill.data.encoders import Encoders
from ray_distill.data.feed.stream import COND, Stream
from ray_distill.data.prepare.embeddings import ROUNDING, ReadEmbeddings, distance, embedding_id, tokens_of
from ray_distill.data.prepare.encode import CountTokens, EncodeText
from ray_distill.data.prepare.index import finish, summary
from ray_distill.data.prepare.inventory import Inventory
from ray_distill.data.prepare.latents import LookLatents, ReadLatents
from ray_distill.data.prepare.listing import listing
from ray_distill.data.prepare.stages import CLIPS, Write
from ray_distill.data.source import Source
from ray_distill.data.store.tables import among, rows_of, table_of, without
from ray_distill.models.pipeline import Pipeline
from ray_distill.models.spec import Field
from ray_distill.train.driver.checks.latents import _widths_of_text
from tests.parquet_latents import raw, row, wan_model, write
from tests.unit.data.test_index import columns

CAPTIONS = [f"a {digit} moving {way}" for digit in ("one", "two", "six", "nine") for way in ("left", "up", "down")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return wan_model(tmp_path_factory.mktemp("wan") / "model")


@pytest.fixture(scope="module")
def encoder(model):
    return Encoders(Pipeline("wan", model), 8).text_encoder()


@pytest.fixture(scope="module")
def states(encoder):
    """fp32 [tokens, 64] of each caption by the run's own encoder."""
    return dict(zip(CAPTIONS, (each["text"].numpy() for each in encoder.encode(CAPTIONS)), strict=True))


def bf16(values):
    """``values`` as an encoder in bf16 gives them at best."""
    return torch.from_numpy(values).bfloat16().float().numpy()


def text(values, **changes):
    named = {"bytes": values.tobytes(), "shape": list(values.shape), "dtype": str(values.dtype)} | changes
    return {f"text_embedding_{name}": value for name, value in named.items()}


def clip(number, caption, values, **changes):
    return row(f"c{number}", raw(number), caption, **text(values, **changes))


def source(folder, *datasets, **given):
    own = {"latents": folder / "in", "text_embeddings": True}
    settings = {"frames": 9, "height": 32, "width": 32, "cache_dir": folder / "cache"} | given
    return Source(datasets=list(datasets) or [own], **settings)


def make(source, model, between=lambda: None):
    """Do what data/prepare/pipeline.py does with these rows, without Ray; returns the cache and the ids of the
    embeddings that were copied."""
    models = Encoders(Pipeline("wan", model), 8)
    widths, size = models.widths_of_text(source), (source.height, source.width)
    look = LookLatents(models.shapes_of_latents(source), models.pipeline.statistics, size, widths)
    listed, latents = listing(source), pa.array(source.numbers_of("latents"))
    rows = [clip for entry in rows_of(among(listed, "dataset", latents)) for clip in look(entry)]
    if widths:
        counted = CountTokens(models)(columns(rows))
        rows = [dict(zip(counted, values, strict=True)) for values in zip(*counted.values(), strict=True)]
    prompts = without(listed, "dataset", latents)
    made, read = Inventory(source, models, prompts, table_of(rows, CLIPS)), ReadEmbeddings(widths, models.text_field)
    between()
    if captions := made.missing_text().to_pylist():
        Write(made.text)(EncodeText(models)(columns(captions)))
    if some := made.compared.to_pylist():
        made.compare(one(each) for each in read(columns(some)))
    missing = made.missing_embeddings().to_pylist()
    for some in read(columns(missing)) if missing else ():
        done = Write(made.text)({name: np.array(some[name], dtype=object) for name in some})
        made.mark_failed(dict(zip(done["id"], done["error"], strict=True)), "embedding_id")
    if clips := made.missing_clips().to_pylist():
        for some in ReadLatents(look.shapes, look.statistics)(columns(clips)):
            Write(made.latents)({name: np.array(some[name], dtype=object) for name in some})
    return finish(made), [each["embedding_id"] for each in missing]


def one(block):
    return {name: values[0] for name, values in block.items()}


def conditions(cache, model):
    """The stored text [tokens, 64] of each row of ``cache``, by caption."""
    fields, numbers = Encoders(Pipeline("wan", model), 8).fields, range(len(cache.index))
    rows = zip(cache.index["caption"].to_pylist(), cache.conditions(list(numbers), fields), strict=True)
    return {caption: np.frombuffer(each["text"], np.float32).reshape(-1, 64) for caption, each in rows}


def quarantine(cache):
    lines = (cache.folder / "quarantine.jsonl").read_text().splitlines()
    return {line["file"]: line["reason"] for line in map(json.loads, lines)}


def test_embeddings_that_differ_by_rounding_are_those_that_train(tmp_path, model, states):
    padded = {n: np.pad(bf16(states[c]), ((0, 507), (0, 0))) for n, c in enumerate(CAPTIONS)}
    shaped = {n: values[None] if n % 2 else values for n, values in padded.items()}
    write(tmp_path / "in/a.parquet", [clip(n, c, shaped[n]) for n, c in enumerate(CAPTIONS[:7])], 2)
    write(tmp_path / "in/b.parquet", [clip(n, c, bf16(states[c])) for n, c in list(enumerate(CAPTIONS))[7:]])
    cache, copied = make(source(tmp_path), model)
    assert len(copied) == len(CAPTIONS) == cache.card["clips"] and cache.card["skipped"] == 0
    stored = conditions(cache, model)
    assert all(np.array_equal(stored[caption], bf16(states[caption])) for caption in CAPTIONS)
    assert not any(np.array_equal(stored[caption], states[caption]) for caption in CAPTIONS)
    told = cache.card["text_embeddings"]
    assert (told["clips"], told["compared"]) == (12, 8) and 1e-4 < told["distance"] < 1e-2
    assert "12 of them with their own text embedding (8 compared with the encoder" in summary(cache.card)
    assert make(source(tmp_path), model)[1] == []


def test_each_sample_of_any_world_has_its_own_embedding(tmp_path, model, states):
    write(tmp_path / "in/a.parquet", [clip(n, c, bf16(states[c])) for n, c in enumerate(CAPTIONS)])
    cache, _ = make(source(tmp_path), model)
    fields = Encoders(Pipeline("wan", model), 8).fields

    def samples(world):
        stream = Stream(cache, 0, 0, 3, world, 4, 1, True, fields)
        blocks = [stream.block(number) for number in range(world)]
        return {int(i): c for b in blocks for i, c in zip(b["sample_id"], b[COND + "text"], strict=True)}

    alone = samples(1)
    assert alone == samples(2) == samples(4) and len(alone) == 12
    assert set(alone.values()) == {bf16(states[caption]).tobytes() for caption in CAPTIONS}


def test_the_encoder_still_gives_what_no_row_holds(tmp_path, model, states, encoder):
    write(tmp_path / "in/a.parquet", [clip(n, c, bf16(states[c])) for n, c in enumerate(CAPTIONS)])
    (tmp_path / "prompts.txt").write_text("a seven moving right\n" + CAPTIONS[0])
    own, prompts = {"latents": tmp_path / "in", "text_embeddings": True}, {"prompts": tmp_path / "prompts.txt"}
    cache, _ = make(source(tmp_path, own, prompts, negative_prompt="a zero"), model)
    seven, zero, null = (each["text"].numpy() for each in encoder.encode(["a seven moving right", "a zero", ""]))
    fields = Encoders(Pipeline("wan", model), 8).fields
    for which, values in (("negative", zero), ("null", null)):
        assert cache.prompt(which, fields)["text"] == values.tobytes()
    rows = cache.index.select(["caption", "video"]).to_pylist()
    number = next(n for n, each in enumerate(rows) if each == {"caption": CAPTIONS[0], "video": ""})
    assert cache.conditions([number], fields)[0]["text"] == states[CAPTIONS[0]].tobytes()
    assert np.array_equal(conditions(cache, model)["a seven moving right"], seven)


def test_its_cache_is_another_than_that_of_the_encoders_text(tmp_path, model, states):
    write(tmp_path / "in/a.parquet", [clip(n, c, states[c]) for n, c in enumerate(CAPTIONS[:3])])
    own, _ = make(source(tmp_path), model)
    encoded, copied = make(source(tmp_path, {"latents": tmp_path / "in"}), model)
    assert own.folder != encoded.folder and copied == [] and "text_embeddings" not in encoded.card
    ids = [set(cache.index["text_id"].to_pylist()) for cache in (own, encoded)]
    assert len(ids[0]) == len(ids[1]) == 3 and not ids[0] & ids[1]
    write(tmp_path / "in/a.parquet", [clip(n, c, bf16(states[c])) for n, c in enumerate(CAPTIONS[:3])])
    rounded, _ = make(source(tmp_path), model)
    assert rounded.folder not in (own.folder, encoded.folder)


def other_encoder(states):
    """Embeddings as another encoder of the same width and norm would give them."""
    draw = np.random.default_rng(0)
    norm = {c: np.linalg.norm(v) / v.size**0.5 for c, v in states.items()}
    return {c: draw.standard_normal(v.shape, dtype=np.float32) * np.float32(norm[c]) for c, v in states.items()}


def turned(states):
    return {caption: states[CAPTIONS[(n + 1) % len(CAPTIONS)]] for n, caption in enumerate(CAPTIONS)}


def last_third_turned(states):
    return {c: (turned(states) if n >= 8 else states)[c] for n, c in enumerate(CAPTIONS)}


@pytest.mark.parametrize("plant", [other_encoder, turned, last_third_turned])
def test_embeddings_of_another_encoder_or_text_are_refused_by_name(tmp_path, model, states, plant):
    planted = plant(states)
    write(tmp_path / "in/a.parquet", [clip(n, c, planted[c]) for n, c in enumerate(CAPTIONS)])
    with pytest.raises(ConfigError) as refused:
        make(source(tmp_path), model)
    number = 1 if plant is not last_third_turned else 9
    message = rf"data.datasets.0.text_embeddings = true: a.parquet, row {number}: its text embedding is "
    assert str(refused.value).startswith(message), str(refused.value)
    away = float(str(refused.value).removeprefix(message).split()[0])
    assert away > ROUNDING and "Use false" in str(refused.value) and CAPTIONS[number - 1] in str(refused.value)


def test_one_encoder_in_bf16_is_rounding_and_another_word_is_not(model, states):
    half = Encoders(Pipeline("wan", model), 8, "bfloat16").text_encoder()
    rounded = dict(zip(CAPTIONS, (each["text"].numpy() for each in half.encode(CAPTIONS)), strict=True))
    apart = [distance(rounded[c].tobytes(), states[c].tobytes()) for c in CAPTIONS]
    assert min(apart) > 1e-4 and max(apart) < ROUNDING / 2
    for one, other in (("a one moving left", "a two moving left"), ("a one moving left", "a one moving up")):
        assert distance(states[one].tobytes(), states[other].tobytes()) > 2 * ROUNDING
    assert distance(states[CAPTIONS[0]][:4].tobytes(), states[CAPTIONS[0]].tobytes()) == np.inf


def damaged(values):
    values = values.copy()
    values[2, 5] = np.inf
    return values


def test_bad_rows_are_counted_and_named_and_cost_no_other_row(tmp_path, model, states):
    caption = CAPTIONS[0]
    good = states[caption]
    bad = {
        "no bytes": (clip(1, caption, good, bytes=None), "its text embedding has 0 bytes"),
        "cut off": (clip(2, caption, good, bytes=good.tobytes()[:-4]), "bytes, and float32 of 5x64 another number"),
        "no shape": (clip(3, caption, good, shape=None), "its text embedding is without a shape"),
        "another width": (clip(4, caption, good[:, :32]), "its text embedding is 5x32, and text_encoder gives tokens"),
        "half": (clip(5, caption, good.astype(np.float16)), "its text embedding is float16, and float32 is read"),
        "infinite": (clip(6, caption, damaged(good)), "its text embedding is not finite"),
        "zeros": (clip(7, caption, 0 * good), "its text embedding is empty"),
        "fewer tokens": (clip(8, caption, good[:4]), "has 4 tokens, and its caption 5 by this run's tokenizer"),
        "more tokens": (clip(9, caption, np.concatenate([good, good])), "has 10 tokens, and its caption 5"),
    }
    write(tmp_path / "in/a.parquet", [clip(0, caption, good), *(each for each, _ in bad.values())])
    cache, _ = make(source(tmp_path), model)
    assert (cache.card["clips"], cache.card["skipped"]) == (1, len(bad))
    reasons = quarantine(cache)
    for number, (_, reason) in enumerate(bad.values(), 2):
        assert reason in reasons[f"a.parquet, row {number}"]
    assert str(tmp_path) not in "".join(reasons.values())


def test_a_long_caption_is_cut_as_the_encoder_cuts_it(tmp_path, model, encoder):
    caption = "a one moving left a two moving up"
    (own,) = encoder.encode([caption])
    write(tmp_path / "in/a.parquet", [clip(0, caption, own["text"].numpy())])
    cache, _ = make(source(tmp_path), model)
    assert cache.card["clips"] == 1 and cache.card["captions_cut"] == 1 and cache.card["tokens"]["most"] == 9


def test_a_caption_that_cleaning_changes_is_encoded_anew(tmp_path, model, states, encoder):
    caption = "a seven&nbsp;moving left"
    (uncleaned,) = encoder.model(encoder.tokenizer([caption], return_tensors="pt").input_ids).last_hidden_state
    (own,) = encoder.encode([caption])
    assert not torch.equal(own["text"], uncleaned[: len(own["text"])])
    write(tmp_path / "in/a.parquet", [clip(0, caption, uncleaned.numpy()), clip(1, CAPTIONS[0], states[CAPTIONS[0]])])
    cache, _ = make(source(tmp_path), model)
    assert cache.card["clips"] == 2 and cache.card["text_embeddings"]["clips"] == 1
    assert np.array_equal(conditions(cache, model)[caption], own["text"].numpy())


def test_a_row_that_changes_after_the_look_is_refused_or_left_out(tmp_path, model, states):
    path, captions = tmp_path / "in/a.parquet", CAPTIONS[:9]
    rows = [clip(n, c, states[c]) for n, c in enumerate(captions)]
    write(path, rows)
    first = rows[0] | text(bf16(states[captions[0]]))
    with pytest.raises(ConfigError, match="row 1: .*was replaced since it was looked into; prepare again"):
        make(source(tmp_path), model, lambda: write(path, [first, *rows[1:]]))
    write(path, rows)
    compared = {round(n) for n in np.linspace(0, 8, 8)}
    (left,) = set(range(9)) - compared
    late = rows[left] | text(bf16(states[captions[left]]))
    cache, _ = make(source(tmp_path), model, lambda: write(path, [*rows[:left], late, *rows[left + 1 :]]))
    assert quarantine(cache) == {f"a.parquet, row {left + 1}": "was replaced since it was looked into"}


def test_an_embedding_has_the_id_of_its_values(states):
    values = states[CAPTIONS[0]]
    stored = {name: [value] for name, value in text(values).items()}
    as_bytes = {**one(stored), "text_embedding_dtype": b"float32"}
    assert embedding_id(tokens_of(as_bytes, 64)) == embedding_id(values) != embedding_id(bf16(values))


def test_only_latents_bring_embeddings(tmp_path):
    with pytest.raises(ValueError, match="text_embeddings = true: only latents bring text embeddings"):
        source(tmp_path, {"prompts": tmp_path / "prompts.txt", "text_embeddings": True})


def test_a_family_with_other_fields_is_refused(tmp_path):
    two = {"text": Field((8, 64), padding="mask"), "glyphs": Field((8, 64), padding="mask")}
    for fields in (two, {"text": Field((8, 64))}):
        encoders = SimpleNamespace(fields=fields)
        config = SimpleNamespace(model=SimpleNamespace(encoders=encoders, family="other"), data=source(tmp_path))
        with pytest.raises(ConfigError, match="text_embeddings = true: a caption of family 'other' is more than"):
            _widths_of_text(config)
