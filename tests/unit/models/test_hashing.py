"""Different networks never have equal hashes, and a large file is read only once."""

import os
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from ray_distill.models import hashing
from ray_distill.models.hashing import ends_hash, file_hash, folder_hash, weights_hash

SIZE = 4 << 20


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def reads(monkeypatch):
    """The names of the files that were read; hashes are remembered from 1 MiB on."""
    names, read = [], hashing._read
    monkeypatch.setattr(hashing, "_read", lambda path: names.append(path.name) or read(path))
    monkeypatch.setattr(hashing, "LARGE", 1 << 20)
    return names


def settled(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def later(monkeypatch):
    """Make files that were just written count as old."""
    now = time.time_ns
    monkeypatch.setattr(hashing.time, "time_ns", lambda: now() + 10**10)


@pytest.mark.parametrize("place", [0, 1 << 20, SIZE // 2, SIZE - (1 << 20) - 1, SIZE - 1])
def test_every_byte_counts(tmp_path, place):
    content = bytearray(SIZE)
    path = settled(tmp_path / "m/transformer/a.safetensors", content)
    before = folder_hash(path.parent), weights_hash(tmp_path / "m"), weights_hash(path), file_hash(path)
    content[place] = 1
    path.write_bytes(content)
    after = folder_hash(path.parent), weights_hash(tmp_path / "m"), weights_hash(path), file_hash(path)
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_blocks_in_the_middle_of_a_network_count(tmp_path):
    (tmp_path / "transformer").mkdir()
    path, draw = tmp_path / "transformer/diffusion_pytorch_model.safetensors", np.random.default_rng(0)
    weights = {f"blocks.{n:02d}.w": draw.standard_normal((256, 256)).astype(np.float32) for n in range(20)}
    save_file(weights, path)
    before, ends = weights_hash(tmp_path), ends_hash(tmp_path)
    weights["blocks.10.w"][3, 5] += 0.1
    save_file(weights, path)
    assert weights_hash(tmp_path) != before and ends_hash(tmp_path) == ends  # what older checkpoints hold cannot tell


def test_a_large_file_is_read_once(tmp_path, reads, later):
    path = settled(tmp_path / "m/large", bytes(SIZE))
    settled(tmp_path / "m/small", b"1")
    hashes = {folder_hash(path.parent) for _ in range(3)}
    assert len(hashes) == 1 and reads.count("large") == 1 and reads.count("small") == 3
    (tmp_path / "link").symlink_to(path)
    assert file_hash(tmp_path / "link") == file_hash(path) and reads.count("large") == 1


def test_and_again_once_it_is_another(tmp_path, reads, later):
    path = settled(tmp_path / "m/large", bytes(SIZE))
    hashes, before = [file_hash(path)], path.stat()
    with path.open("r+b") as file:  # the same size, inode and, set back, time
        file.seek(SIZE // 2)
        file.write(b"1")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    hashes.append(file_hash(path))
    other = settled(tmp_path / "m/other", bytes(SIZE - 1) + b"2")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)  # the same size and time, another inode
    hashes.append(file_hash(path))
    assert len(set(hashes)) == 3 and len(reads) == 3


def test_a_file_that_was_just_written_is_not_remembered(tmp_path, reads):
    path = settled(tmp_path / "large", bytes(SIZE))
    assert file_hash(path) == file_hash(path) and len(reads) == 2


@pytest.mark.parametrize("damage", ["flip", "empty", "no home"])
def test_a_memory_that_is_damaged_or_cannot_be_kept_costs_a_read(tmp_path, home, reads, later, monkeypatch, damage):
    path = settled(tmp_path / "large", bytes(SIZE))
    wanted = file_hash(path)
    (memo,) = home.rglob("*.json")
    if damage == "flip":
        memo.write_text(memo.read_text().replace(wanted, wanted[::-1]))
    elif damage == "empty":
        memo.write_bytes(b"")
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", str(settled(tmp_path / "file", b"") / "below"))
    assert file_hash(path) == wanted and len(reads) == 2


def test_links_are_followed_and_loops_end(tmp_path):
    settled(tmp_path / "blobs/a", b"1")
    (tmp_path / "m/vae").mkdir(parents=True)
    (tmp_path / "m/vae/a").symlink_to(tmp_path / "blobs/a")
    (tmp_path / "m/linked").symlink_to(tmp_path / "blobs")
    (tmp_path / "m/loop").symlink_to(tmp_path / "m")
    before = folder_hash(tmp_path / "m")
    assert before == folder_hash(tmp_path / "m")
    (tmp_path / "blobs/a").write_bytes(b"2")
    assert folder_hash(tmp_path / "m") != before


def test_names_and_sizes_have_borders(tmp_path):
    settled(tmp_path / "a/x1", b"")
    settled(tmp_path / "b/x", b"")
    assert folder_hash(tmp_path / "a") != folder_hash(tmp_path / "b")
