import fcntl
import io
import logging
import os
import struct
import sys
import termios
import threading
import time

import pytest

from ray_distill.bars import Bar, bar, pace, stopwatch, write
from ray_distill.terminal import AboveBars


class Terminal(io.StringIO):
    def isatty(self):
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error from now on: a fixture's would be pytest's own again when the test begins."""
    out = Terminal()
    monkeypatch.setattr(sys, "stderr", out)
    return out


def screen(text: str) -> list[str]:
    """Lines that a terminal shows after ``text``: a carriage return writes over the line."""
    lines = []
    for line in text.split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


def test_a_bar_shows_count_share_times_and_what_it_is_told(monkeypatch):
    out = terminal(monkeypatch)
    with bar("   clips", 80, done=20) as shown:
        shown.set_postfix_str("1 skipped", refresh=False)
        shown.update(40)
        (line,) = screen(out.getvalue())
        assert line.startswith("   clips: 60/80  75 %|") and line.endswith("left, 1 skipped")
    assert screen(out.getvalue())[1:] == [""]


@pytest.mark.parametrize(("rate", "text"), [(2.5, "2.5/s"), (12.34, "12.3/s"), (0.25, "4 s each"), (0.0, "-")])
def test_the_pace_is_that_of_parts_or_of_seconds(rate, text):
    assert pace(rate) == text


def test_the_pace_leaves_out_what_was_done_before(monkeypatch):
    out = terminal(monkeypatch)
    with bar("   clips", 80, done=20) as shown:
        shown.start_t -= 1000
        shown.update(10)
        assert "| 100 s each, 16:40 gone, 1:23:2" in screen(out.getvalue())[0]


def test_lines_stand_above_the_bar_and_leave_it_whole(monkeypatch):
    out = terminal(monkeypatch)
    handler = logging.StreamHandler(AboveBars())
    with bar("step", 4) as shown:
        shown.update(1)
        write("a line")
        handler.emit(logging.LogRecord("x", logging.INFO, "x.py", 1, "a record", None, None))
        lines = screen(out.getvalue())
        assert lines[:2] == ["a line", "a record"] and lines[2].startswith("step: 1/4  25 %|") and len(lines) == 3
        shown.update(1)
    assert screen(out.getvalue())[2].startswith("step: 2/4  50 %|")


def test_nothing_is_drawn_where_no_terminal_is(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    with bar("step", 4) as shown:
        shown.update(3)
        write("a line")
        assert shown.disable
    assert out.getvalue() == "a line\n"


def test_bars_start_no_thread(monkeypatch):
    terminal(monkeypatch)
    with bar("step", 4):
        assert Bar.monitor is None


@pytest.mark.parametrize(("columns", "width"), [(0, 80), (60, 60)])
def test_a_terminal_without_a_size_is_taken_for_one_of_80_columns(columns, width):
    """Terminals that a program opens for another have none until somebody sets it; tqdm's lines would be empty."""
    reader, end = os.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))
    with os.fdopen(end, "w") as out, bar("step", 4, out=out) as shown:
        shown.update(1)
        out.flush()
        text = ""
        while "1/4" not in text:  # the terminal hands on what it has
            text += os.read(reader, 10_000).decode()
    os.close(reader)
    line = text.split("\r")[-1]
    assert line.startswith("step: 1/4") and width - 2 <= len(line) <= width


def test_a_stopwatch_goes_on_by_itself_and_leaves_lines_whole(monkeypatch):
    out, threads = terminal(monkeypatch), threading.active_count()
    with stopwatch("== start Ray", every_s=0.001):
        write("a line")
        before = len(out.getvalue())
        while len(out.getvalue()) == before:  # nobody but its thread draws
            time.sleep(0.001)
    lines = screen(out.getvalue())
    assert lines[0] == "a line" and lines[1].startswith("== start Ray  00:0") and lines[2:] == [""]
    assert threading.active_count() == threads


def test_a_stopwatch_is_one_line_where_no_terminal_is():
    out = io.StringIO()
    with stopwatch("== start Ray", out=out, every_s=0.001):
        assert out.getvalue() == "== start Ray\n"
    assert out.getvalue() == "== start Ray\n"
