import logging
import pickle
import shutil

import pytest
import torch

from ray_distill.checkpoint import BadCheckpoint, Checkpoint, latest, reader, writer
from ray_distill.checkpoint.layout import folder_name, piece_name
from tests.checkpoints import write
from tests.unit.checkpoint.ranks import NAMES, tensors, together, write_all


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


def cut(whole, world):
    """The pieces of a tensor by rank, as ZeRO-3 cuts it: equal ones, the last short."""
    size = -(-whole.numel() // world)
    pieces = enumerate(whole.flatten().split(size))
    return [[("student", piece_name("weights/w", rank * size, whole.shape), piece)] for rank, piece in pieces]


@pytest.mark.parametrize("world", [2, 3])
def test_pieces_are_read_as_one(tmp_path, world):
    whole = torch.randn(3, 5)
    own, folder = cut(whole, world), tmp_path / folder_name(4)
    together(world, lambda rank, gather: write(folder, (), {"step": 4}, rank, world, gather, own[rank]))
    checkpoint = latest(tmp_path, thorough=True)
    assert checkpoint.names("student", "weights") == ["w"] and checkpoint.shapes("student", "weights") == {"w": (3, 5)}
    assert torch.equal(checkpoint.tensor("student", "weights", "w"), whole)


def test_files_that_are_kept_open_are_opened_once(tmp_path, monkeypatch):
    checkpoint, opened = write_all(tmp_path / "a", 1), []
    opens = reader.safe_open
    monkeypatch.setattr(reader, "safe_open", lambda path, of: opened.append(path) or opens(path, of))
    with checkpoint.kept_open():
        opened.clear()
        kept = checkpoint.tensors("student", "weights")
        assert not opened
    again = checkpoint.tensors("student", "weights")
    assert len(opened) == len(NAMES) == len(kept) and all(torch.equal(kept[name], again[name]) for name in NAMES)


@pytest.mark.parametrize(("lost", "end"), [(0, 0), (1, 5), (2, 10)])
def test_a_tensor_that_lacks_a_piece_is_refused(tmp_path, lost, end):
    own = cut(torch.randn(3, 5), 3)
    own[lost] = []
    together(3, lambda rank, gather: write(tmp_path / "a", (), {"step": 4}, rank, 3, gather, own[rank]))
    with pytest.raises(BadCheckpoint, match=f"elements of weights/w from {end} on are not in one file each"):
        Checkpoint(tmp_path / "a").tensor("student", "weights", "w")


@pytest.mark.parametrize("name", ["weights/w#", "weights/w#0", "weights/w#a/3x5", "weights/w#0/3xb"])
def test_a_piece_of_no_place_is_refused(tmp_path, name):
    write(tmp_path / "a", [("student", name, torch.ones(3))], {"step": 4}, 0, 1, lambda value: [value])
    with pytest.raises(BadCheckpoint, match="invalid literal"):
        Checkpoint(tmp_path / "a").names("student", "weights")


def test_each_rank_keeps_its_turn(tmp_path):
    write_all(tmp_path / "a", 1, world=2)
    sizes = {p.name: p.stat().st_size for p in tmp_path.glob("a/*.safetensors")}
    assert {p.stat().st_mode & 0o777 for p in tmp_path.glob("a/*")} == {(tmp_path / "a").stat().st_mode & 0o666}
    assert len(sizes) == 4 and max(sizes.values()) < 1.5 * min(sizes.values())


def test_a_tensor_that_is_not_there_is_named(tmp_path):
    with pytest.raises(KeyError, match=r"no ema of student's head\.weight"):
        write_all(tmp_path / "a", 1).tensor("student", "ema", "head.weight")


def test_nothing_is_pickled(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("pickle")

    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)
    checkpoint = write_all(tmp_path / "a", 1)
    checkpoint.verify()
    assert checkpoint.tensors("student", "weights")
    assert {path.suffix for path in checkpoint.folder.iterdir()} == {".json", ".safetensors"}


def test_no_checkpoint_is_none(tmp_path):
    assert latest(tmp_path) is None and latest(tmp_path / "nowhere") is None


def test_the_newest_is_by_step(tmp_path):
    for step in (1000, 200, 90):
        write_all(tmp_path / folder_name(step), step)
    newest = latest(tmp_path)
    assert newest is not None and newest.step == 1000
    wanted = latest(tmp_path, accepts=lambda checkpoint: checkpoint.step < 500)
    assert wanted is not None and wanted.step == 200


def test_a_file_that_the_manifest_does_not_name_is_not_read(tmp_path, caplog):
    """Somebody else has put it there, and the manifest does not vouch for it."""
    checkpoint = write_all(tmp_path / "a", 1)
    stale = write_all(tmp_path / "b", 1, world=1, seed=1)
    for path in stale.folder.glob("*.safetensors"):
        shutil.copy(path, checkpoint.folder / path.name.replace("-0000-", "-0009-"))
    (checkpoint.folder / "student-0009-001.safetensors").write_bytes(b"cut")
    checkpoint.verify()
    for role, name, tensor in tensors():
        kind, _, parameter = name.partition("/")
        assert torch.equal(checkpoint.tensor(role, kind, parameter), tensor)


def test_what_a_dead_attempt_left_is_gone_when_the_step_is_saved_again(tmp_path):
    folder = tmp_path / folder_name(3)
    write_all(folder, 3, world=3, seed=1)
    (folder / "manifest.json").unlink()
    again = write_all(folder, 3, world=2)
    again.verify()
    assert not list(folder.glob("*-0002-*")) and not list(folder.glob("*.part"))


def test_what_is_passed_over_is_told_to_whom_it_concerns(tmp_path, caplog):
    write_all(tmp_path / folder_name(1), 1)
    (write_all(tmp_path / folder_name(2), 2).folder / "state.json").unlink()
    told = []
    with caplog.at_level(logging.WARNING):
        latest(tmp_path, tell=told.append)
    assert len(told) == 1 and "step_00000002: unfinished or damaged: state.json: it is missing" in told[0]
    assert not caplog.records
