"""A job that was stopped goes on when it is submitted again, word for word."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ray.conftest import TOKEN, Home
from tests.ray.test_job import assert_whole, documented, job, stop, stopped_then_killed


def test_a_job_that_is_stopped_and_submitted_again_ends_equal(straight: Path, home: Home) -> None:
    stopped = stop(home, "again")
    again = job(*documented(), *stopped.arguments)
    assert again.returncode == 0, again.stdout[-2000:]
    assert TOKEN not in again.stdout
    assert_whole(stopped, straight, home, again.stdout + again.stderr)


def test_a_job_that_is_stopped_goes_on_through_two_kills_and_ends_equal(
    straight: Path, home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_then_killed(straight, home, capsys, monkeypatch, "twice", kills=2)
