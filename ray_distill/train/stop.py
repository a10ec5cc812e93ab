"""Leaving in good order: the first signal saves, the second leaves at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(Exception):
    """The user asked for an end; the run was saved. ``signum`` is the signal that asked."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped at step {step}, which is saved; the same command goes on from there")
        self.signum = signum


@contextmanager
def stop_on_signals(request_stop: Callable[[], None]) -> Iterator[dict[str, int]]:
    """Ask for a stop on the first SIGINT or SIGTERM; yields where that signal's number is left ("signum")."""
    caught: dict[str, int] = {}

    def handle(signum: int, _frame: Any) -> None:
        if caught:
            raise KeyboardInterrupt
        caught["signum"] = signum
        print(f"\n{signal.Signals(signum).name}: saving, then leaving (again: leave at once)", file=sys.stderr)
        request_stop()

    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
