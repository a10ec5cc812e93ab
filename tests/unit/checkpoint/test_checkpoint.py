import json
import logging
import pickle
import shutil

import pytest
import torch

from ray_distill.checkpoint import BadCheckpoint, Checkpoint, latest, writer
from ray_distill.checkpoint.layout import MANIFEST, STATE, folder_name
from ray_distill.checkpoint.writer import write

NAMES = ["blocks.0.weight", "blocks.0.bias", "scale"]
SHAPES = [(3, 4), (5,), ()]


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    for role in ("student", "fake_score"):
        for name, shape in zip(NAMES, SHAPES, strict=True):
            for kind in ("weights", "exp_avg", "exp_avg_sq", "ema"):
                yield role, f"{kind}/{name}", torch.randn(shape, generator=generator)


def write_all(folder, step, world=2, seed=0):
    """What ``world`` ranks do, one after another; rank 0, which writes the manifest, is the last."""
    parts = []

    def gather(part):
        parts.append(part)
        return parts

    for rank in reversed(range(world)):
        write(folder, tensors(seed), {"step": step, "roles": {"student": {"updates": step}}}, rank, world, gather)
    return Checkpoint(folder)


@pytest.mark.parametrize("part_bytes", [1, 100, 1 << 30])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_what_was_written_is_read(tmp_path, monkeypatch, world, part_bytes):
    monkeypatch.setattr(writer, "PART_BYTES", part_bytes)
    checkpoint = write_all(tmp_path / "a", 7, world)
    checkpoint.verify()
    assert checkpoint.step == 7 and checkpoint.state["roles"]["student"]["updates"] == 7
    for role, name, tensor in tensors():
        kind, _, parameter = name.partition("/")
        read = checkpoint.tensor(role, kind, parameter)
        assert read.dtype == tensor.dtype and read.shape == tensor.shape and torch.equal(read, tensor)
    assert sorted(checkpoint.names("student", "weights")) == sorted(NAMES)
    assert set(checkpoint.tensors("fake_score", "ema")) == set(NAMES)
    assert checkpoint.names("teacher", "weights") == []


def test_each_rank_keeps_its_turn(tmp_path):
    write_all(tmp_path, 1, world=2)
    sizes = {p.name: p.stat().st_size for p in tmp_path.glob("*.safetensors")}
    assert len(sizes) == 4 and max(sizes.values()) < 1.5 * min(sizes.values())


def test_a_tensor_that_is_not_there_is_named(tmp_path):
    with pytest.raises(KeyError, match=r"no ema of student's head\.weight"):
        write_all(tmp_path, 1).tensor("student", "ema", "head.weight")


def test_nothing_is_pickled(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("pickle")

    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)
    checkpoint = write_all(tmp_path, 1)
    checkpoint.verify()
    assert checkpoint.tensors("student", "weights")
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


def some_file(folder):
    return sorted(folder.glob("*.safetensors"))[0]


def truncated(folder):
    path = some_file(folder)
    path.write_bytes(path.read_bytes()[:-1])


def flipped(folder):
    path = some_file(folder)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def cut_manifest(folder):
    path = folder / MANIFEST
    path.write_text(path.read_text()[:-10])


def foreign_file(folder):
    shutil.copy(some_file(folder), folder.parent / "outside.safetensors")
    files = json.loads((folder / MANIFEST).read_text())
    files["../outside.safetensors"] = files[some_file(folder).name]
    (folder / MANIFEST).write_text(json.dumps(files))


DAMAGE = {
    "a file is missing": lambda folder: some_file(folder).unlink(),
    "a file is cut": truncated,
    "a bit is flipped": flipped,
    "no state": lambda folder: (folder / STATE).unlink(),
    "another state": lambda folder: (folder / STATE).write_text("{}"),
    "no manifest": lambda folder: (folder / MANIFEST).unlink(),
    "a cut manifest": cut_manifest,
    "a manifest that is a list": lambda folder: (folder / MANIFEST).write_text("[]"),
    "a manifest without sizes": lambda folder: (folder / MANIFEST).write_text('{"state.json": 3}'),
    "a manifest that points outside": foreign_file,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_found_and_the_one_before_is_taken(tmp_path, caplog, damage):
    whole = write_all(tmp_path / folder_name(200), 200)
    damaged = write_all(tmp_path / folder_name(400), 400)
    assert latest(tmp_path) == damaged
    damage(damaged.folder)
    with pytest.raises(BadCheckpoint, match=str(damaged.folder)):
        damaged.verify()
    with caplog.at_level(logging.WARNING):
        assert latest(tmp_path, thorough=True) == whole
    assert [r.levelname for r in caplog.records] == ["WARNING"] and str(damaged.folder) in caplog.text


@pytest.mark.parametrize("damage", [name for name in DAMAGE if name != "a bit is flipped"])
def test_a_quick_look_sees_all_but_flipped_bits(tmp_path, damage):
    whole = write_all(tmp_path / folder_name(200), 200)
    DAMAGE[damage](write_all(tmp_path / folder_name(400), 400).folder)
    assert latest(tmp_path) == whole


def test_no_checkpoint_is_none(tmp_path):
    assert latest(tmp_path) is None and latest(tmp_path / "nowhere") is None
    truncated(write_all(tmp_path / folder_name(1), 1).folder)
    assert latest(tmp_path) is None


def test_the_newest_is_by_step(tmp_path):
    for step in (1000, 200, 90):
        write_all(tmp_path / folder_name(step), step)
    newest = latest(tmp_path)
    assert newest is not None and newest.step == 1000


def test_a_file_that_the_manifest_does_not_name_is_not_read(tmp_path):
    """An attempt that died half-way through this folder leaves its ranks' files: nobody vouches for them."""
    checkpoint = write_all(tmp_path / "a", 1)
    stale = write_all(tmp_path / "b", 1, world=1, seed=1)
    for path in stale.folder.glob("*.safetensors"):
        shutil.copy(path, checkpoint.folder / path.name.replace("-0000-", "-0009-"))
    (checkpoint.folder / "student-0009-001.safetensors").write_bytes(b"cut")
    checkpoint.verify()
    for role, name, tensor in tensors():
        kind, _, parameter = name.partition("/")
        assert torch.equal(checkpoint.tensor(role, kind, parameter), tensor)
