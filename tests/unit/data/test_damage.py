"""Caches that were flipped, cut, emptied or purged: damage is named, never read, and repaired by one run."""

import json
import os
import random
import threading

import numpy as np
import pytest

from ray_distill import sealed
from ray_distill.data.encoders import Encoders
from ray_distill.data.prepare import pipeline, stages
from ray_distill.data.prepare.known_caches import memo, recall
from ray_distill.data.prepare.progress import Progress
from ray_distill.data.prepare.stages import PIECE, PIECES, Decode, Look, fingerprint
from ray_distill.data.store import parquet as store
from ray_distill.data.store.cache import CARD, INDEX, PROMPTS, Cache, index_of, older
from ray_distill.data.store.growing import Growing
from ray_distill.data.store.parquet import Store
from ray_distill.sealed import Damaged
from tests.unit.data import caches, odd
from tests.unit.data.test_index import MODELS, Characters, listing, make, source

COLUMNS = ["id", "caption", "shape", "dataset", "latents"]


@pytest.fixture(autouse=True)
def characters(monkeypatch):
    monkeypatch.setattr(Encoders, "text_encoder", lambda models: Characters(models))


@pytest.fixture
def folder(tmp_path):
    """A folder with three clips of two sizes."""
    (tmp_path / "in").mkdir()
    for name, size in (("wide", (48, 96)), ("square", (64, 64)), ("small", (32, 32))):
        odd.write(tmp_path / f"in/{name}.mp4", size=size, frames=4)
    return tmp_path


def content(cache):
    """Everything that training reads from a cache."""
    rows = cache.rows(range(len(cache.index)), COLUMNS), cache.conditions(range(len(cache.index)), caches.FIELDS)
    prompts = {name: array.tobytes() for name, array in cache.prompts.items()}
    return rows, prompts, {name: value for name, value in cache.card.items() if name != "index"}


def flipped(path, bit):
    broken = bytearray(path.read_bytes())
    broken[bit // 8] ^= 1 << bit % 8
    path.write_bytes(broken)


def flips(folder, count, seed):
    """Flip bits one by one all over a cache; returns how many flips were detected, by kind of file."""
    cache = caches.make(folder, [list(range(12)), list(range(50, 62))])
    features = folder / "key" / "features.safetensors"
    sealed.write_tensors(features, {"features": np.arange(64, dtype=np.float32).reshape(4, 16)})
    wanted, there, draw = content(cache), sealed.read_tensors(features)[0]["features"], random.Random(seed)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    detected = dict.fromkeys((path.relative_to(folder).parts[0] + path.suffix for path in paths), 0)
    for _ in range(count):
        path = draw.choice(paths)
        whole = path.read_bytes()
        flipped(path, bit := draw.randrange(8 * len(whole)))
        index_of.cache_clear()
        try:
            fresh = Cache(cache.folder)
            for kind in ("latents", "text"):
                Store(folder / kind / fresh.card[kind]).places()
            assert content(fresh) == wanted, f"bit {bit} of {path} was not seen"
            assert np.array_equal(sealed.read_tensors(features)[0]["features"], there), f"bit {bit} of {path}"
        except Damaged:
            detected[path.relative_to(folder).parts[0] + path.suffix] += 1
        path.write_bytes(whole)
        path.with_name(path.name + store.ASIDE).unlink(missing_ok=True)
    return detected


def test_a_flipped_bit_is_detected_or_does_no_harm(tmp_path):
    detected = flips(tmp_path, 120, seed=1)
    assert len(detected) == 5 and all(count > 5 for count in detected.values()), detected


@pytest.mark.slow
def test_so_are_600_of_each_of_five_seeds(tmp_path):
    for seed in range(5):
        flips(tmp_path / str(seed), 600, seed)


def test_rows_that_changed_places_are_seen(tmp_path):
    """Whole pages are swapped, with right checksums, in files with right names."""
    one = Store(tmp_path)
    one.write([{"id": "a", "x": b"1"}, {"id": "b", "x": b"2"}])
    one.write([{"id": "c", "x": b"3"}])
    a, b, c = one.find(["a", "b", "c"])
    changes = {"row": b.row}, {"file": c.file}, {"id": "b"}, {"row": 7}, {"group": 1}
    for wrong in (a._replace(**change) for change in changes):
        with pytest.raises(Damaged, match="is damaged"):
            one.read([wrong], "x")
        for path in tmp_path.glob("*.damaged"):
            path.rename(path.with_suffix(""))
    with pytest.raises(Damaged):
        one.read([a], "id")  # which has no digest
    (tmp_path / f"{c.file}.damaged").unlink(missing_ok=True)


DAMAGE = {
    "purged": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "half of it zeros": lambda path: path.write_bytes(
        path.read_bytes()[: path.stat().st_size // 2] + bytes(path.stat().st_size - path.stat().st_size // 2)
    ),
    "other bytes": lambda path: path.write_bytes(os.urandom(path.stat().st_size)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_one_run_mends_what_a_disk_has_lost(folder, damage, caplog):
    cache, (captions, _) = make(source(folder))
    wanted = content(cache)
    one_of = {kind: next((folder / "cache" / kind).glob("*/*.parquet")) for kind in ("latents", "text")}
    paths = [*one_of.values(), *(cache.folder / name for name in (INDEX, PROMPTS, CARD))]
    for path in paths:
        DAMAGE[damage](path)
        caplog.clear()
        again, encoded = make(source(folder))
        lost = {one_of["text"]: (captions, []), one_of["latents"]: ([], ["wide.mp4", "square.mp4", "small.mp4"])}
        assert [sorted(those) for those in encoded] == [sorted(those) for those in lost.get(path, ([], []))]
        assert again.folder == cache.folder and content(again) == wanted
        assert str(path) in caplog.text
        again.check()
        assert make(source(folder))[1] == ([], []) and recall(source(folder), MODELS, listing(source(folder)))


def test_a_flip_in_a_row_is_found_by_its_reader_and_mended_by_the_next_run(folder):
    cache, _ = make(source(folder))
    wanted = content(cache)
    (path,) = (folder / "cache/latents").glob("*/*.parquet")
    flipped(path, 8 * (path.stat().st_size // 2))
    cache.check()  # of the right size: only its reader sees it
    with pytest.raises(Damaged, match="parquet is damaged .* the next preparation, with which train begins"):
        content(cache)
    assert cache.lost() == [path] and path.with_name(path.name + ".damaged").is_file()
    with pytest.raises(Damaged, match="is gone"):
        content(cache)
    again, (captions, clips) = make(source(folder))
    assert captions == [] and len(clips) == 3 and content(again) == wanted


def test_an_answer_that_is_kept_and_wrong_is_looked_for_again(folder):
    wanted = source(folder)
    cache, _ = make(wanted)
    path = memo(wanted, MODELS, listing(wanted))
    for wrong in (b"", b"\xff\xfe", b"../..", path.read_bytes()[:-9], cache.folder.name.encode()):
        path.write_bytes(wrong)
        assert recall(wanted, MODELS, listing(wanted)) is None
    assert make(wanted)[0].folder == cache.folder and recall(wanted, MODELS, listing(wanted)) is not None


def test_errors_of_a_streamed_store_that_were_cut_are_no_end(tmp_path):
    one = Store(tmp_path)
    one.write([{"id": "a", "x": b"1"}])
    one.write_errors({"b": "broken"})
    (tmp_path / f"cut{store.ERRORS}").write_bytes(b'{"c": "bro')
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    seen = Growing(tmp_path)
    assert seen.look() and seen.places.keys() == {"a"} and seen.errors == {"b": "broken"}


def test_a_disk_that_cannot_be_read_is_no_damage(tmp_path, monkeypatch):
    """A network that is gone for a moment costs no file."""
    one = Store(tmp_path)
    one.write([{"id": "a", "x": b"1"}])
    places = one.find(["a"])

    def away(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(store.pq, "ParquetFile", away)
    for read in (one.places, lambda: one.read(places, "x")):
        with pytest.raises(OSError, match="Input/output error"):
            read()
    assert [path.suffix for path in tmp_path.iterdir()] == [".parquet"]


def test_a_file_that_another_preparation_has_put_there_meanwhile_stays(tmp_path):
    one = Store(tmp_path)
    one.write([{"id": "a", "x": b"1"}])
    (path,) = tmp_path.glob("*.parquet")
    whole = path.read_bytes()
    path.write_bytes(b"half")
    judged = path.stat()
    path.unlink()
    path.with_name("new").write_bytes(whole)
    path.with_name("new").rename(path)
    one._set_aside(path, judged)
    assert one.read(one.find(["a"]), "x") == [b"1"]


def test_rows_that_stand_are_not_written_again(tmp_path):
    """Other caches may name their file in an index; a half-written file is replaced."""
    one = Store(tmp_path)
    one.write([{"id": "a", "x": b"1"}])
    (path,) = tmp_path.glob("*.parquet")
    before = path.stat().st_ino
    one.write([{"id": "a", "x": b"2"}])
    assert path.stat().st_ino == before and one.read(one.find(["a"]), "x") == [b"1"]
    path.write_bytes(path.read_bytes()[:50])
    one.write([{"id": "a", "x": b"2"}])
    assert one.read(one.find(["a"]), "x") == [b"2"]


def test_two_preparations_at_once_lose_nothing(folder):
    results, failed = [], []

    def prepare():
        try:
            results.append(make(source(folder))[0])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=prepare) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
    index_of.cache_clear()
    caches_ = [Cache(cache.folder) for cache in results]
    for cache in caches_:
        cache.check()
    assert len(results) == 3 and content(caches_[0]) == content(caches_[1]) == content(caches_[2])
    assert not list((folder / "cache").rglob("*.damaged")) and not list((folder / "cache").rglob("*.part"))


def test_an_index_that_is_just_being_replaced_is_waited_for(folder):
    from ray_distill import durable

    cache, _ = make(source(folder))
    stale, wanted = Cache(cache.folder), content(cache)
    old = stale.card["index"]
    index = (cache.folder / INDEX).read_bytes()
    with durable.alone(folder / "cache"):
        (cache.folder / INDEX).write_bytes(b"another")
        index_of.cache_clear()
        reader = threading.Thread(target=lambda: wanted == content(stale) or pytest.fail())
        reader.start()
        (cache.folder / INDEX).write_bytes(index)
        sealed.write_json(cache.folder / CARD, cache.card)
    reader.join()
    assert stale.card["index"] == old and content(stale) == wanted


# Clips


def test_a_clip_that_is_replaced_between_look_and_decode_is_left_out(folder):
    wanted = source(folder)
    for name, other in (("wide", "square"), ("square", "same size"), ("small", None)):
        path = folder / f"in/{name}.mp4"
        (row,) = Look(wanted, (8, 8))({"dataset": 0, "path": str(path), "error": ""})
        assert Decode(wanted).clip(row)[1] == ""
        if other == "same size":
            flipped(path, 8 * (path.stat().st_size // 2))
        elif other:
            path.write_bytes((folder / f"in/{other}.mp4").read_bytes())
        else:
            odd.write(path, size=(32, 32), frames=5)
        pixels, error = Decode(wanted).clip(row)
        assert not pixels.any() and ("was replaced since its header was read" in error or "cannot be decoded" in error)
    os.utime(path)  # another time is the same content
    (row,) = Look(wanted, (8, 8))({"dataset": 0, "path": str(path), "error": ""})
    os.utime(path)
    assert Decode(wanted).clip(row)[1] == ""


def test_one_that_is_replaced_while_it_is_looked_into_is_left_out(folder, monkeypatch):
    path, look = folder / "in/wide.mp4", stages.look

    def swap(name, *how):
        found = look(name, *how)
        path.write_bytes((folder / "in/square.mp4").read_bytes())
        return found

    monkeypatch.setattr(stages, "look", swap)
    (row,) = Look(source(folder), (8, 8))({"dataset": 0, "path": str(path), "error": ""})
    assert "was replaced while its header was read" in row["error"] and row["id"] == ""


def test_a_file_is_known_by_all_of_it_up_to_16_mib_and_by_128_pieces_beyond(tmp_path):
    small, large = np.zeros(300_000, np.uint8), np.zeros(PIECES * PIECE * 2, np.uint8)

    def hashed(array, place=None):
        changed = array.copy()
        if place is not None:
            changed[place] = 1
        changed.tofile(tmp_path / "a")
        return fingerprint(str(tmp_path / "a"))

    assert len({hashed(small, place) for place in (None, 0, 1, 150_000, 299_999)}) == 5
    assert hashed(small) != hashed(small[:-1])
    # Its first and last byte, and a run of zeros anywhere that is longer than the gap between two pieces.
    gap = (large.size - PIECE) // (PIECES - 1) - PIECE + 1
    places = [None, 0, large.size - 1, *(slice(at, at + gap) for at in range(1, large.size - gap, large.size // 9))]
    assert len({hashed(large, place) for place in places}) == len(places) and gap < 140 << 10


# The pipeline around it


@pytest.fixture
def hollow(folder, monkeypatch):
    """Run ``pipeline._build`` without Ray: one call of ``done`` replaces looking, encoding and indexing."""
    calls = {"done": lambda made: make(source(folder))[0], "said": []}
    for name in ("_look", "_captions", "_clips", "_latents"):
        monkeypatch.setattr(pipeline, name, lambda *_: None)
    monkeypatch.setattr(pipeline, "Inventory", lambda *_: None)
    monkeypatch.setattr(pipeline, "finish", lambda made: calls["done"](made))
    return calls


def test_a_file_that_changes_during_a_preparation_is_looked_into_by_the_next(folder, hollow):
    def change(made):
        cache = make(source(folder))[0]
        for path in (folder / "cache/known").iterdir():
            path.unlink()
        os.utime(folder / "in/wide.mp4", ns=(1, 1))
        return cache

    hollow["done"] = change
    pipeline.prepare(source(folder), MODELS)
    assert not list((folder / "cache/known").iterdir())
    hollow["done"] = lambda made: make(source(folder))[0]
    pipeline.prepare(source(folder), MODELS)
    assert recall(source(folder), MODELS, listing(source(folder))) is not None


def test_damage_that_is_met_during_a_preparation_costs_another_attempt(folder, hollow):
    lines, fails = [], [Damaged("a", "is damaged"), Damaged("b", "is damaged")]

    def done(made):
        if fails:
            raise fails.pop()
        return make(source(folder))[0]

    hollow["done"] = done
    assert pipeline.prepare(source(folder), MODELS, lines.append).folder and len(lines) == 2
    fails += [Damaged(str(n), "is damaged") for n in range(9)]
    for path in (folder / "cache/known").iterdir():
        path.unlink()
    with pytest.raises(Damaged):
        pipeline.prepare(source(folder), MODELS, lines.append)
    assert len(fails) == 6


def test_caches_of_earlier_versions_are_made_anew_with_one_line(folder, hollow):
    for name in ("0123456789abcdef", "fedcba9876543210"):
        (folder / "cache" / name).mkdir(parents=True)
        (folder / "cache" / name / CARD).write_text(json.dumps({"clips": 3, "latents": "a", "text": "b"}))
    lines = []
    cache = pipeline.prepare(source(folder), MODELS, lines.append)
    assert len(lines) == 1 and "2 caches of an earlier version, such as 0123456789abcdef" in lines[0]
    assert cache.card["clips"] == 3 and len(older(folder / "cache")) == 2
    odd.write(folder / "in/new.mp4", size=(32, 32), frames=4)
    pipeline.prepare(source(folder), MODELS, lines.append)
    assert len(lines) == 1


def test_the_caller_does_its_own_work_while_the_first_rows_are_encoded(monkeypatch):
    class Rows:
        def map_batches(self, *_, **__):
            return self

        def iter_batches(self, **_):
            assert worked.wait(timeout=60), "the rows came before the caller did its work"
            yield from ({"id": np.array([n]), "error": np.array([e])} for n, e in (("a", ""), ("b", "is damaged")))

    worked = threading.Event()
    monkeypatch.setattr(pipeline, "share", lambda *_: 1)
    progress = Progress("clips", 2, lambda line: None)
    assert pipeline._write(Rows(), None, 1, progress, meanwhile=worked.set) == {"b": "is damaged"}
    assert progress.done == 2 and progress.bad == 1
