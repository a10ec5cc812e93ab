"""One store for all tests that do not look at its place: making one takes seconds."""

import pytest

from ray_distill.track import tracker


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def uri(store: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The store's, for a tracker that waits for it: a busy machine may take longer than a run would wait."""
    for name in ("START_WAIT_S", "END_WAIT_S"):
        monkeypatch.setattr(tracker, name, 600.0)
    return store
