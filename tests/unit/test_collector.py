"""The collector rests while a package is imported, and only then."""

import gc
import subprocess
import sys
import weakref

import pytest

from ray_distill import cli
from ray_distill.collector import at_rest, resolve
from ray_distill.data.prepare import encode


@pytest.fixture(autouse=True)
def running():
    assert gc.isenabled()
    yield
    gc.enable()


class Node:
    """A reference cycle: only the collector frees it."""

    def __init__(self):
        self.itself = self


def test_it_rests_for_the_block_alone_and_later_frees_what_stood_beside():
    beside, frozen = Node(), gc.get_freeze_count()
    gone = weakref.ref(beside)
    with at_rest():
        assert not gc.isenabled()
    assert gc.isenabled() and gc.get_freeze_count() == frozen
    del beside
    gc.collect()
    assert gone() is None


def test_a_failed_import_starts_it_again():
    with pytest.raises(ModuleNotFoundError), at_rest():
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    with at_rest():
        pass
    assert not gc.isenabled()


def test_a_place_is_imported_at_rest(tmp_path, monkeypatch):
    (tmp_path / "told_of_the_collector.py").write_text("import gc\n\nrunning = gc.isenabled()\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve("told_of_the_collector:running") is False


@pytest.mark.parametrize(("verb", "runs"), [("check", False), ("plan", False), ("train", True)])
def test_verbs_that_mostly_import_run_at_rest(verb, runs, monkeypatch):
    seen = []
    monkeypatch.setitem(cli.VERBS, verb, lambda args: seen.append(gc.isenabled()))
    assert cli.main([verb, "configs/quickstart.yaml"]) == 0
    assert seen == [runs] and gc.isenabled()


def test_the_commands_processes_end_without_a_search():
    """What a handler that runs after main's sees: every object is frozen, so that nothing is left to look at."""
    script = (
        "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 1000, len(gc.get_objects()) < 1000))"
    )
    script += "; from ray_distill.cli import main; main(['check', 'nowhere.yaml'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "True True\n"), done.stderr


@pytest.mark.parametrize("actor", [encode.EncodeText, encode.EncodeClips, encode.EncodePictures, encode.CountTokens])
def test_an_encoders_actor_ends_without_a_search(actor, monkeypatch):
    """It ends while the next stage's actors start."""
    asked = []
    monkeypatch.setattr(encode, "leave_at_once", lambda: asked.append(actor))
    with pytest.raises(AttributeError):  # the encoders of nothing
        actor(None)
    assert asked == [actor]
