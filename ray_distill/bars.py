"""Draw progress bars by tqdm on a terminal, and print lines above them without breaking them."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from tqdm import tqdm

FORM = "{desc}: {n_fmt}/{total_fmt} {percentage:3.0f} %|{bar}| {pace}, {elapsed} gone, {remaining} left{postfix}"


class Bar(tqdm):
    """tqdm without its monitor thread, and with a lock that no other process shares."""

    monitor_interval = 0

    @property
    def format_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = super().format_dict
        done, seconds = values["n"] - values["initial"], values["elapsed"]
        return values | {"pace": pace(done / seconds if seconds else 0.0)}


Bar.set_lock(threading.RLock())


def pace(rate: float) -> str:
    """2.5 -> '2.5/s', 0.25 -> '4 s each', 0 -> '-': of ``rate`` parts a second."""
    if not rate:
        return "-"
    return f"{rate:.3g}/s" if rate >= 1 else f"{1 / rate:.3g} s each"


def bar(what: str, total: int | None, done: int = 0, out: TextIO | None = None, form: str = FORM) -> Bar:
    """A live bar from ``done`` to ``total`` on ``out`` (None: standard error); its pace is the mean since this call.
    Where ``out`` is no terminal, the bar has ``disable`` = True and draws nothing. Close the bar, or use it as a
    context."""
    out = out or sys.stderr
    return Bar(
        desc=what,
        total=total,
        initial=done,
        file=out,
        disable=None,  # to tqdm None means: disable where ``file`` is no terminal
        ncols=_columns(out),
        dynamic_ncols=_columns(out) is None,
        mininterval=0,
        smoothing=0,
        bar_format=form,
    )


@contextmanager
def stopwatch(what: str, out: TextIO | None = None, every_s: float = 0.5) -> Iterator[None]:
    """Show ``what`` and the time gone while the block runs, for work without parts to count. Where ``out`` (None:
    standard error) is no terminal, print ``what`` once."""
    shown, over = bar(what, None, out=out, form="{desc}  {elapsed}"), threading.Event()
    if shown.disable:
        write(what, out=out)

    def tick() -> None:
        while not over.wait(every_s):
            shown.refresh()

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        shown.close()


def _columns(out: TextIO) -> int | None:
    """80 for a terminal that reports no size, where tqdm would draw lines of no width; else None: tqdm asks it."""
    with suppress(OSError, AttributeError, io.UnsupportedOperation):  # no terminal, or none with a descriptor
        return 80 if os.get_terminal_size(out.fileno()).columns == 0 else None
    return None


def write(text: str, end: str = "\n", out: TextIO | None = None) -> None:
    """Print ``text`` above the bars; without bars it works as ``print``."""
    out = out or sys.stderr
    Bar.write(text, file=out, end=end)
    out.flush()
