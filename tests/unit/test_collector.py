"""The collector rests while a package is imported, and only then."""

import gc

import pytest

from ray_distill.collector import at_rest, resolve


@pytest.fixture(autouse=True)
def thawed():
    assert gc.isenabled()
    yield
    gc.enable()
    gc.unfreeze()


def test_objects_of_the_block_are_not_scanned_again():
    before = gc.get_freeze_count()
    with at_rest():
        assert not gc.isenabled()
        made = [[i] for i in range(1000)]
    assert gc.isenabled() and len(made) == 1000
    assert gc.get_freeze_count() >= before + 1000


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
