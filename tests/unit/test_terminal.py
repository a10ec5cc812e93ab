"""A reader that leaves, as ``| head`` does, ends nothing and is told of nowhere."""

import os
import subprocess
import sys

import pytest

from ray_distill.cli import main
from ray_distill.terminal import patient


@pytest.fixture
def closed():
    """A stream whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as stream:
        yield stream


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_what_is_written_to_a_closed_pipe_goes_nowhere(name, closed, monkeypatch):
    monkeypatch.setattr(sys, name, closed)
    with patient():
        for _ in range(3):
            print("one line", file=getattr(sys, name), flush=True)
        assert getattr(sys, name).fileno() == closed.fileno() and not getattr(sys, name).isatty()
    assert getattr(sys, name) is closed
    print("another", file=closed, flush=True)  # the null device has its place


def test_a_command_keeps_its_exit_code(closed, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "stderr", closed)
    assert main(["check", str(tmp_path / "gone.yaml")]) == 2
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stdout", closed)
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().err == ""


def test_other_errors_of_a_pipe_are_errors(closed):
    with pytest.raises(BrokenPipeError), patient():
        os.write(closed.fileno(), b"x")  # such as a server's connection


def test_a_process_whose_reader_leaves_says_nothing_at_its_exit():
    code = "from ray_distill.terminal import patient\nwith patient(): print('x' * 1_000_000)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 0
    process.stderr.close()
