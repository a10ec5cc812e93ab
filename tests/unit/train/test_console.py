"""What Ray's core logs in the driver stays off the terminal; the processes that it starts log as ever."""

import os
import subprocess
import sys

import pytest
from ray._private import services

from ray_distill.train.driver.console import CORE, silent_core

TELL = [sys.executable, "-c", f"import os; print(os.environ.get('{CORE}'))"]


def told(env: dict[str, str] | None = None) -> str:
    process = services.ConsolePopen(TELL, env=env, stdout=subprocess.PIPE, text=True)
    return process.communicate()[0].strip()


def test_only_this_process_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CORE, raising=False)
    plain = services.ConsolePopen
    with silent_core():
        assert os.environ[CORE] == "fatal"
        assert told() == "None" and told(dict(os.environ)) == "None"
    assert CORE not in os.environ and services.ConsolePopen is plain


def test_a_level_that_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CORE, "debug")
    with silent_core():
        assert os.environ[CORE] == told(dict(os.environ)) == "debug"
    assert os.environ[CORE] == "debug"


def test_what_others_say_meanwhile_is_said_afterwards(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(CORE, raising=False)
    with pytest.raises(ValueError, match="no"), silent_core():
        os.write(2, f"[I] Set ray log level from environment variable {CORE} to 3\na warning\n".encode())
        raise ValueError("no")
    assert capfd.readouterr().err == "a warning\n"
