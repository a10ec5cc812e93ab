"""Checkpoints damaged in every way that disks, people and strangers can: named, not resumed from, never unpickled."""

import json
import logging
import os
import pickle
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from ray_distill.checkpoint import BadCheckpoint, Checkpoint, latest
from ray_distill.checkpoint.layout import MANIFEST, STATE, fingerprint, folder_name
from tests.unit.checkpoint.ranks import write_all

STUDENT = ("student-0000-000.safetensors", "student-0001-000.safetensors")


class Evil:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def edit(folder, name, change):
    """Change a file's content by ``change``, and leave the manifest as it was."""
    path = folder / name
    path.write_bytes(change(path.read_bytes()))


def vouch(folder, name, path=None):
    """Adapt the manifest to the changed files, as a stranger would."""
    files = json.loads((folder / MANIFEST).read_text())
    files[name] = fingerprint(path or folder / name)
    (folder / MANIFEST).write_text(json.dumps(files))


def swap(folder, one, other):
    (folder / one).rename(folder / "aside")
    (folder / other).rename(folder / one)
    (folder / "aside").rename(folder / other)


def flip(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def outside(folder):
    path = folder.parent / STUDENT[0]
    shutil.move(folder / STUDENT[0], path)
    return path


def pickled(folder):
    edit(folder, STUDENT[0], lambda _: pickle.dumps(Evil(folder / "unpickled")))


def vouched_pickle(folder):
    pickled(folder)
    vouch(folder, STUDENT[0])


def pickle_beside(folder):
    (folder / "optimizer.pt").write_bytes(pickle.dumps(Evil(folder / "unpickled")))
    vouch(folder, "optimizer.pt")


def linked(folder):
    (folder / STUDENT[0]).symlink_to(outside(folder))


def pointed_at(folder):
    vouch(folder, "../outside.safetensors", outside(folder))


def replaced_by(make):
    def damage(folder):
        (folder / STUDENT[0]).unlink()
        make(folder / STUDENT[0])

    return damage


def other_tensors(folder):
    save_file({"weights/blocks.0.weight": np.zeros((3, 4), np.float32)}, folder / STUDENT[0])


def older_state(folder):
    state = json.loads((folder / STATE).read_text()) | {"step": 200}
    (folder / STATE).write_text(json.dumps(state))
    vouch(folder, STATE)


def written(name, text):
    return lambda folder: (folder / name).write_text(text)


# What is done to it, the file that the message names, a part of what it says, and whether a quick look sees it.
DAMAGE = {
    "a shard is missing": (lambda f: (f / STUDENT[1]).unlink(), STUDENT[1], "missing", True),
    "a shard is cut by a byte": (lambda f: edit(f, STUDENT[0], lambda c: c[:-1]), STUDENT[0], "size", True),
    "a shard is empty": (lambda f: edit(f, STUDENT[0], lambda c: b""), STUDENT[0], "size", True),
    "a shard is longer": (lambda f: edit(f, STUDENT[0], lambda c: c + b"\0"), STUDENT[0], "size", True),
    "a bit of a tensor is flipped": (lambda f: edit(f, STUDENT[0], lambda c: flip(c, -3)), STUDENT[0], "hash", False),
    "a bit of a header is flipped": (lambda f: edit(f, STUDENT[0], lambda c: flip(c, 9)), STUDENT[0], "hash", False),
    "a shard is all zeros": (lambda f: edit(f, STUDENT[0], lambda c: bytes(len(c))), STUDENT[0], "hash", False),
    "ranks are swapped": (lambda f: swap(f, *STUDENT), STUDENT[0], "differs from the manifest", True),
    "roles are swapped": (lambda f: swap(f, STUDENT[0], "fake_score-0000-001.safetensors"), "-0000-", "hash", False),
    "a shard of other tensors": (other_tensors, STUDENT[0], "size", True),
    "a pickle for a shard": (pickled, STUDENT[0], "size", True),
    "a pickle that the manifest vouches for": (vouched_pickle, STUDENT[0], "header", False),
    "a pickle beside the shards": (pickle_beside, "optimizer.pt", "a checkpoint has no file", True),
    "a link out of the folder": (linked, STUDENT[0], "no plain file", True),
    "a manifest that points outside": (pointed_at, "../outside", "a checkpoint has no file", True),
    "a folder for a shard": (replaced_by(lambda p: p.mkdir()), STUDENT[0], "no plain file", True),
    "a pipe for a shard": (replaced_by(os.mkfifo), STUDENT[0], "no plain file", True),
    "no state": (lambda f: (f / STATE).unlink(), STATE, "missing", True),
    "an empty state": (written(STATE, "{}"), STATE, "size", True),
    "the state of another step": (older_state, STATE, "of step 200", True),
    "no manifest": (lambda f: (f / MANIFEST).unlink(), MANIFEST, "missing", True),
    "a torn manifest": (lambda f: edit(f, MANIFEST, lambda c: c[:-10]), MANIFEST, "line", True),
    "a manifest of zeros": (lambda f: edit(f, MANIFEST, lambda c: bytes(len(c))), MANIFEST, "", True),
    "a manifest that is no text": (lambda f: edit(f, MANIFEST, lambda c: b"\xff" + c), MANIFEST, "decode", True),
    "a manifest that is a list": (written(MANIFEST, "[]"), MANIFEST, "a list", True),
    "a manifest of nothing": (written(MANIFEST, "{}"), MANIFEST, f"names no {STATE}", True),
    "a manifest without sizes": (written(MANIFEST, f'{{"{STATE}": 3}}'), MANIFEST, "no size", True),
    "a manifest without an end": (written(MANIFEST, "[" * 100_000), MANIFEST, "recursion", True),
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_all(folder / folder_name(200), 200)

    write_all(folder / folder_name(400), 400)
    return folder


@pytest.fixture
def run(pair, tmp_path):
    return shutil.copytree(pair, tmp_path / "run", symlinks=True)


@pytest.mark.parametrize(("damage", "file", "fault", "quick"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_named_and_the_one_before_is_taken(run, caplog, damage, file, fault, quick):
    whole, damaged = Checkpoint(run / folder_name(200)), run / folder_name(400)
    before = latest(run, thorough=True)
    assert before is not None and before.folder == damaged
    damage(damaged)
    with pytest.raises(BadCheckpoint) as refused:
        Checkpoint(damaged).verify()
    place, _, told = str(refused.value).partition(": unfinished or damaged: ")
    assert place == str(damaged) and file in told and fault in told
    with caplog.at_level(logging.WARNING):
        assert latest(run, thorough=True) == whole
    assert [record.getMessage() for record in caplog.records] == [f"checkpoint passed over: {refused.value}"]
    assert (latest(run) == whole) == quick
    assert not (damaged / "unpickled").exists()


def test_a_file_that_is_no_safetensors_is_refused_when_it_is_read(run):
    """A check of sizes alone does not find it."""
    checkpoint = Checkpoint(run / folder_name(400))
    vouched_pickle(checkpoint.folder)
    checkpoint.verify(thorough=False)
    with pytest.raises(BadCheckpoint, match=f"{STUDENT[0]}: .*header"):
        checkpoint.tensors("student", "weights")
    assert not (checkpoint.folder / "unpickled").exists()


def test_a_run_of_nothing_but_damage_has_no_checkpoint(run):
    for step in (200, 400):
        edit(run / folder_name(step), STUDENT[0], lambda content: content[1:])
    assert latest(run) is None
