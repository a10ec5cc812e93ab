"""Progress bars by tqdm where standard error is a terminal; lines that are written meanwhile leave them whole."""

from __future__ import annotations

import sys
import threading
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
    return Bar(
        desc=what,
        total=total,
        initial=done,
        unit=unit and f" {unit}",
        file=out or sys.stderr,
        disable=None,  # tqdm's word for: where ``file`` is no terminal
        dynamic_ncols=True,
        mininterval=0,
        smoothing=0,
        bar_format=FORM,
    )


def write(text: str, end: str = "\n", out: TextIO | None = None) -> None:
    """Print above the bars, or as ``print`` does where there is none."""
    out = out or sys.stderr
    Bar.write(text, file=out, end=end)
    out.flush()
