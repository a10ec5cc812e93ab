"""A full or read-only disk ends the save on all ranks alike, names itself, and leaves the last good checkpoint."""

import errno
import os
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ray_distill import durable
from ray_distill.checkpoint import Checkpoint, host, latest, writer
from ray_distill.checkpoint.layout import folder_name
from ray_distill.checkpoint.writer import SaveFailed, Writing
from tests.checkpoints import write
from tests.unit.checkpoint.ranks import tensors, together, write_all
from tests.unit.disks import file_limit

WORLD = 3


@pytest.fixture
def good(tmp_path):
    return write_all(tmp_path / folder_name(200), 200)


def outcomes(folder, plant=lambda rank: None):
    """The error that ``write`` raises on each rank; ``plant`` may change a rank first."""

    def rank_writes(rank, gather):
        plant(rank)
        write(folder, tensors(), {"step": 400}, rank, WORLD, gather)

    return together(WORLD, rank_writes)


def assert_ended(good, failures, why):
    """Assert that all ranks raised the same helpful error, nothing is left, and the checkpoint before it stands."""
    assert {type(failure) for failure in failures} == {SaveFailed}
    (message,) = {str(failure) for failure in failures}
    folder = good.folder.parent / folder_name(400)
    assert message.startswith(f"{folder} was not saved (") and re.search(r"[\d,]+ bytes free", message)
    assert re.search(why, message), message
    assert not folder.exists()
    assert latest(good.folder.parent, thorough=True) == good


def test_a_disk_that_fills_up(good):
    with file_limit(200):
        failures = outcomes(good.folder.parent / folder_name(400))
    needed = sum(tensor.nbytes for _, _, tensor in tensors())
    assert_ended(good, failures, rf"{needed:,} bytes needed; rank 0: SafetensorError: .*File too large")


@pytest.mark.parametrize("culprit", [0, 2])
def test_one_ranks_disk_is_full(good, monkeypatch, culprit):
    """Each node may have a quota of its own."""
    save_file = writer.save_file

    def full(kept, path):
        if f"-{culprit:04d}-" in path.name:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save_file(kept, path)

    monkeypatch.setattr(writer, "save_file", full)
    failures = outcomes(good.folder.parent / folder_name(400))
    assert_ended(good, failures, rf"rank {culprit}: OSError: \[Errno 28\] No space left on device: '.*-000\d-")


@pytest.mark.parametrize("name", ["state.json", "manifest.json"])
def test_the_last_bytes_do_not_fit(good, monkeypatch, name):
    write = durable.write

    def full(path, content):
        if path.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, content)

    monkeypatch.setattr(durable, "write", full)
    assert_ended(good, outcomes(good.folder.parent / folder_name(400)), rf"rank 0: .*No space left.*{name}")


def test_a_read_only_disk(good, monkeypatch):
    """The error is injected, since root can write into read-only folders."""
    mkdir = Path.mkdir

    def refuse(path, **how):
        if path.name == folder_name(400):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        mkdir(path, **how)

    monkeypatch.setattr(Path, "mkdir", refuse)
    failures = outcomes(good.folder.parent / folder_name(400))
    assert_ended(good, failures, "nothing was written yet; rank 0: OSError: .*Read-only file system")


def test_storage_that_only_one_node_sees(good, monkeypatch):
    size = writer._size
    monkeypatch.setattr(writer, "_size", lambda path: -1 if "-0002-" in path.name else size(path))
    failures = outcomes(good.folder.parent / folder_name(400))
    message = {str(failure) for failure in failures}
    assert len(message) == 1 and "is not seen on" in (text := message.pop()) and "all nodes share" in text
    assert latest(good.folder.parent, thorough=True) == good


def test_what_was_taken_is_what_is_written_whatever_happens_to_the_tensors_meanwhile(tmp_path, monkeypatch):
    """Training changes the tensors while the disk is busy."""
    hold, save_file = threading.Event(), writer.save_file

    def slow(kept, path):
        assert hold.wait(20)
        save_file(kept, path)

    monkeypatch.setattr(writer, "save_file", slow)
    mine = {name: tensor.clone() for _, name, tensor in tensors()}
    given = [("student", name, tensor) for name, tensor in mine.items()]
    writing = Writing(tmp_path / "a", given, {"step": 1}, 0, 1, lambda value: [value], ahead=None)
    wanted = {name: tensor.clone() for name, tensor in mine.items()}
    for tensor in mine.values():
        tensor.fill_(float("nan"))
    assert not writing.done() and latest(tmp_path) is None
    hold.set()
    writing.finish()
    (tmp_path / "a").rename(tmp_path / folder_name(1))
    last = latest(tmp_path, thorough=True)
    assert last is not None
    for name, tensor in wanted.items():
        kind, _, parameter = name.partition("/")
        assert torch.equal(last.tensor("student", kind, parameter), tensor)


def test_an_error_that_is_not_the_disks_ends_all_ranks_and_leaves_no_manifest(tmp_path, monkeypatch):
    save_file = writer.save_file

    def refuse(kept, path):
        if "-0001-" in path.name:
            raise ValueError("planted")
        save_file(kept, path)

    monkeypatch.setattr(writer, "save_file", refuse)
    failures = outcomes(tmp_path / folder_name(400))
    assert len(failures) == WORLD and {type(failure) for failure in failures} == {RuntimeError}
    assert {str(failure).partition(": ")[2] for failure in failures} == {
        "rank 1 could not write its part: ValueError('planted')"
    }
    assert not [*tmp_path.glob("*/manifest.json")]


class Device(torch.Tensor):
    """A tensor that says it is on a GPU."""

    is_cuda = True


@pytest.fixture
def pinned(monkeypatch):
    """A GPU whose copies are whole once their own event is waited for: the bytes of each buffer that it pins."""
    asked = []

    def begin(tensor, buffer):
        value = tensor.as_subclass(torch.Tensor).clone()
        buffer.fill_(float("nan"))
        return host.Copy(buffer, SimpleNamespace(synchronize=lambda: buffer.copy_(value)))

    def pin(nbytes):
        asked.append(nbytes)
        return torch.empty(nbytes, dtype=torch.uint8)

    monkeypatch.setattr(host, "begin", begin)
    monkeypatch.setattr(host, "pin", pin)
    monkeypatch.setattr(host, "has_room", lambda nbytes: True)
    monkeypatch.setattr(writer, "BUFFERS", host.Buffers())
    return asked


def assert_saved(folder, seed=0):
    given = [*tensors(seed)]
    on_gpu = [(role, name, tensor.as_subclass(Device)) for role, name, tensor in given]
    write(folder, on_gpu, {"step": 1}, 0, 1, lambda value: [value])
    for role, name, tensor in given:
        assert torch.equal(Checkpoint(folder).tensor(role, *name.split("/", 1)), tensor)


def test_a_gpus_tensors_are_whole_before_they_are_written_and_the_next_save_pins_no_more(tmp_path, pinned):
    assert_saved(tmp_path / "a")
    assert sorted(pinned) == sorted(tensor.nbytes for _, _, tensor in tensors())
    assert_saved(tmp_path / "b", seed=1)
    assert len(pinned) == len([*tensors()])


@pytest.mark.parametrize("missing", ["room", "permission"])
def test_without_pinned_memory_a_copy_is_made_at_once(tmp_path, pinned, monkeypatch, missing):
    name, answer = ("has_room", False) if missing == "room" else ("pin", None)
    monkeypatch.setattr(host, name, lambda nbytes: answer)
    assert_saved(tmp_path / "a")
    assert pinned == []


@pytest.mark.parametrize(("nbytes", "free", "expected"), [(100, 378, True), (100, 377, False), (128, 378, True)])
def test_pinned_buffers_leave_a_quarter_of_the_memory(monkeypatch, nbytes, free, expected):
    monkeypatch.setattr(host, "available", lambda: (free, 1000))
    assert host.has_room(nbytes) is expected


@pytest.mark.parametrize("refusal", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_modes_and_fsync_of_folders_is_written_without(tmp_path, monkeypatch, refusal):
    fsync = os.fsync

    def refuse(self, mode):
        raise OSError(refusal, os.strerror(refusal), str(self))

    def of_files_alone(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(refusal, os.strerror(refusal))
        fsync(descriptor)

    monkeypatch.setattr(Path, "chmod", refuse)
    monkeypatch.setattr(os, "fsync", of_files_alone)
    saved = write_all(tmp_path / folder_name(200), 200)
    assert latest(tmp_path, thorough=True) == saved


@pytest.mark.parametrize("refusal", [errno.EIO, errno.ENOSPC])
def test_a_folder_that_does_not_reach_the_disk_is_no_checkpoint(good, monkeypatch, refusal):
    fsync = os.fsync

    def broken(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(refusal, os.strerror(refusal))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", broken)
    assert_ended(good, outcomes(good.folder.parent / folder_name(400)), os.strerror(refusal))
