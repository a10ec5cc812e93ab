"""A run's folder has one driver at a time, and a dead driver holds nothing."""

import os
import signal
import subprocess
import sys

import pytest

from ray_distill.config import ConfigError
from ray_distill.train.driver.run_lock import claim

HOLD = """
import sys, time
from pathlib import Path
from ray_distill.train.driver.run_lock import claim
with claim(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_driver_is_told_who_the_first_is(tmp_path):
    run = tmp_path / "output" / "run"
    told = pytest.raises(ConfigError, match=rf"another driver .*{os.getpid()}.*choose another name")
    with claim(run), told, claim(run):
        pass
    with claim(run):
        pass


def test_a_driver_that_was_killed_holds_nothing(tmp_path):
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=str(first.pid)), claim(tmp_path):
        pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    with claim(tmp_path):
        pass


def test_a_file_system_without_locks_claims_nothing(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError("No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with claim(tmp_path), claim(tmp_path):
        pass
