import itertools
import os

import pytest
import torch

from ray_distill.checkpoint import Checkpoint, latest
from ray_distill.checkpoint.layout import MANIFEST, folder_name, folders
from ray_distill.checkpoint.retention import SKIPPING, best_steps, is_good, prune, set_aside, surplus
from tests.checkpoints import write

TENSORS = [("student", "weights/x", torch.arange(100.0))]


def save(run, step, **state):
    write(run / folder_name(step), TENSORS, {"step": step, **state}, 0, 1, lambda part: [part])
    return Checkpoint(run / folder_name(step))


def steps(run):
    return [int(folder.name[-8:]) for folder in folders(run)]


@pytest.mark.parametrize(
    ("keep", "kept", "good", "stays"),
    [
        (2, (), (1, 2, 3, 4, 5), [4, 5]),
        (2, (1,), (1, 2, 3, 4, 5), [1, 4, 5]),  # the best is old
        (1, (5,), (1, 2, 3, 4, 5), [5]),
        (1, (9,), (1, 2, 3, 4, 5), [5]),  # what is kept may be gone
        (2, (), (1, 2), [2, 4, 5]),  # the newest to which a rollback could go
        (9, (), (), [1, 2, 3, 4, 5]),
    ],
)
def test_what_stays(keep, kept, good, stays):
    gone = surplus([1, 2, 3, 4, 5], good, keep, kept)
    assert sorted({1, 2, 3, 4, 5} - set(gone)) == stays


def test_whatever_is_asked_for_the_newest_and_the_best_stay():
    scores = {1: 5.0, 2: 3.0, 3: 4.0, 4: 3.0, 5: 9.0}
    for keep, count, last in itertools.product((1, 2, 3), (0, 1, 2), range(1, 6)):
        whole = list(range(1, last + 1))
        known = {step: scores[step] for step in whole}
        best = best_steps(known, count)
        left = set(whole) - set(surplus(whole, whole, keep, best))
        assert last in left and best <= left and len(left) <= keep + count
        assert not count or min(known, key=lambda step: (known[step], step)) in left


def test_of_equal_scores_the_earlier_is_best():
    assert best_steps({3: 1.0, 1: 1.0, 2: 0.5}, 2) == {1, 2} and best_steps({1: 1.0}, 0) == set()


def test_a_run_is_pruned(tmp_path):
    for step in (10, 20, 30, 40, 50):
        save(tmp_path, step)
    (tmp_path / folder_name(20) / MANIFEST).unlink()  # a save that was killed, long ago
    (tmp_path / folder_name(60)).mkdir()  # one in the writing
    assert prune(tmp_path, keep=2, best={10}) == [20, 30]
    assert steps(tmp_path) == [10, 40, 50, 60]
    assert prune(tmp_path, keep=1) == [10, 40]
    assert steps(tmp_path) == [50, 60] and prune(tmp_path / "nowhere", keep=1) == []


def test_a_folder_that_does_not_go_costs_a_warning(tmp_path, monkeypatch, caplog):
    for step in (10, 20):
        save(tmp_path, step)

    def refuse(folder):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("ray_distill.checkpoint.retention.shutil.rmtree", refuse)
    assert prune(tmp_path, keep=1) == []
    assert "could not be removed" in caplog.text


def test_what_a_run_does_not_go_on_from_never_counts_again(tmp_path, caplog):
    first, second, third = (save(tmp_path, step) for step in (10, 20, 30))
    (tmp_path / folder_name(40)).mkdir()
    set_aside(tmp_path, first)
    assert latest(tmp_path) == first and steps(tmp_path) == [10]
    assert {path.name for path in tmp_path.glob("passed*")} == {f"passed_over_{c.folder.name}" for c in (second, third)}
    assert "remove it when you no longer need it" in caplog.text
    save(tmp_path, 20)
    set_aside(tmp_path, first)  # again, over the one of before
    set_aside(tmp_path, save(tmp_path / "another", 5))
    assert latest(tmp_path) is None


def test_one_that_was_saved_amid_skipped_updates_is_not_good(tmp_path):
    good, skipping = save(tmp_path, 10), save(tmp_path, 20, **{SKIPPING: {"student": 3}})
    assert is_good(good) and not is_good(skipping) and is_good(save(tmp_path, 30, **{SKIPPING: {}}))
    assert prune(tmp_path, keep=1) == [10, 20]
    save(tmp_path, 40, **{SKIPPING: {"student": 1}})
    assert prune(tmp_path, keep=1) == [] and steps(tmp_path) == [30, 40]


def damage(folder):
    """Flip a bit of the tensors, and keep the file's size and times."""
    (path,) = folder.glob("*.safetensors")
    content, times = bytearray(path.read_bytes()), (path.stat().st_atime, path.stat().st_mtime)
    content[-10] ^= 1
    path.write_bytes(content)
    os.utime(path, times)


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("fault", ["bit", "state", "short"])
def test_a_damaged_newest_costs_no_good_one(tmp_path, caplog, keep, fault):
    """Its sizes are right, and only its bytes show the damage. With ``keep`` = 1 the checkpoint before it is the last
    good one."""
    for step in (10, 20, 30):
        save(tmp_path, step)
    newest = tmp_path / folder_name(30)
    if fault == "bit":
        damage(newest)
    elif fault == "state":
        (newest / "state.json").write_text((newest / "state.json").read_text().replace("30", "31"))
    else:
        (path,) = newest.glob("*.safetensors")
        path.write_bytes(path.read_bytes()[:-1])
    assert prune(tmp_path, keep=keep) == ([10] if keep == 1 else [])
    assert latest(tmp_path, thorough=True).step == 20
    assert fault == "short" or f"checkpoint passed over: {newest}" in caplog.text
    save(tmp_path, 40)
    prune(tmp_path, keep=1)
    assert steps(tmp_path) == [40]


def test_the_last_good_one_is_verified_too(tmp_path):
    """Where the newest was saved amid skipped updates, a rollback needs an older one."""
    for step in (10, 20):
        save(tmp_path, step)
    save(tmp_path, 30, **{SKIPPING: {"student": 1}})
    damage(tmp_path / folder_name(20))
    assert prune(tmp_path, keep=1) == [20] and steps(tmp_path) == [10, 30]


def test_all_damaged_removes_nothing(tmp_path):
    for step in (10, 20):
        save(tmp_path, step)
        damage(tmp_path / folder_name(step))
    assert prune(tmp_path, keep=1) == [] and steps(tmp_path) == [10, 20]


def test_a_checkpoint_is_read_whole_once(tmp_path, monkeypatch):
    for step in (10, 20, 30):
        save(tmp_path, step)
    read = []
    monkeypatch.setattr(Checkpoint, "verify", spied(Checkpoint.verify, read))
    assert prune(tmp_path, keep=2) == [10] and prune(tmp_path, keep=1) == [20]
    assert [folder.name for folder, thorough in read if thorough] == [folder_name(30)]


def spied(verify, read):
    def spy(self, thorough=True):
        read.append((self.folder, thorough))
        return verify(self, thorough)

    return spy
