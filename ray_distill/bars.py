"""Progress bars by tqdm where standard error is a terminal; lines that are written meanwhile leave them whole."""

from __future__ import annotations

import io
import os
import sys
import threading
from contextlib import suppress
from typing import TextIO

from tqdm import tqdm

FORM = "{desc}: {n_fmt}/{total_fmt} {percentage:3.0f} %|{bar}| {rate_fmt}, {elapsed} gone, {remaining} left{postfix}"


class Bar(tqdm):
    """tqdm without the thread that watches bars, and with a lock of this process alone."""

    monitor_interval = 0


Bar.set_lock(threading.RLock())


def bar(what: str, total: int, unit: str = "", done: int = 0, out: TextIO | None = None) -> Bar:
    """A live bar from ``done`` to ``total`` on ``out`` (None: standard error), whose pace is the mean since now. Where
    that is no terminal, ``disable`` is True and nothing is drawn. Close it, or use it as a context."""
    out = out or sys.stderr
    return Bar(
        desc=what,
        total=total,
        initial=done,
        unit=unit and f" {unit}",
        file=out,
        disable=None,  # tqdm's word for: where ``file`` is no terminal
        ncols=_columns(out),
        dynamic_ncols=_columns(out) is None,
        mininterval=0,
        smoothing=0,
        bar_format=FORM,
    )


def _columns(out: TextIO) -> int | None:
    """80 on a terminal without a size, on which tqdm would draw lines of no width; else None: the terminal's own."""
    with suppress(OSError, AttributeError, io.UnsupportedOperation):  # no terminal, or none with a descriptor
        return 80 if os.get_terminal_size(out.fileno()).columns == 0 else None
    return None


def write(text: str, end: str = "\n", out: TextIO | None = None) -> None:
    """Print above the bars, or as ``print`` does where there is none."""
    out = out or sys.stderr
    Bar.write(text, file=out, end=end)
    out.flush()
