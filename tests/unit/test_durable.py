"""New content is whole or not there, whatever the disk does."""

import errno
import os
import threading
import time

import pytest

from ray_distill import durable


def test_new_content_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "deep" / ("n" * 250 + ".json")
    for content in ("one", "zwei ü", b"\xff\x00"):
        durable.write(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [found.name for found in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("fails", ["block", "sync", "rename"])
def test_what_fails_leaves_the_old_and_nothing_else(tmp_path, monkeypatch, fails):
    path = tmp_path / "a"
    durable.write(path, "old")
    full = OSError(errno.ENOSPC, "No space left on device")

    def fail(*_, **__):
        raise full

    if fails != "block":
        monkeypatch.setattr(os if fails == "sync" else type(path), "fsync" if fails == "sync" else "replace", fail)
    with pytest.raises(OSError, match="No space left"), durable.replacing(path) as temporary:
        temporary.write_text("new")
        if fails == "block":
            raise full
    assert path.read_text() == "old" and [found.name for found in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("code", sorted(durable.UNSUPPORTED))
def test_a_file_system_that_cannot_sync_is_taken_as_it_is(tmp_path, monkeypatch, code):
    synced = []

    def fsync(descriptor):
        synced.append(descriptor)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    durable.write(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new" and len(synced) == 2  # the file, then its folder


def test_content_is_synced_before_it_has_its_name_and_the_name_after(tmp_path, monkeypatch):
    seen, fsync = [], os.fsync
    path = tmp_path / "a"

    def note(descriptor):
        seen.append((os.path.samestat(os.fstat(descriptor), os.stat(tmp_path)), path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    durable.write(path, "new")
    assert seen == [(False, False), (True, True)]


def test_writers_of_one_name_do_not_meet(tmp_path):
    path = tmp_path / "a"
    with durable.replacing(path) as one, durable.replacing(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one" and [found.name for found in tmp_path.iterdir()] == ["a"]


def test_one_at_a_time_holds_a_folder(tmp_path, monkeypatch):
    order = []

    def wait():
        with durable.alone(tmp_path):
            order.append("second")

    with durable.alone(tmp_path):
        other = threading.Thread(target=wait)
        other.start()
        time.sleep(0.1)
        order.append("first")
        with durable.alone(tmp_path, wait_s=0):  # who has waited long enough goes on
            pass
    other.join()
    assert order == ["first", "second"]

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(durable.fcntl, "flock", no_locks)
    with durable.alone(tmp_path / "new"):
        order.append("without")
    assert order[-1] == "without"
