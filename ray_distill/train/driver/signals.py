"""Handle SIGINT and SIGTERM: the first saves and stops, the second exits at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from ray._private import services

from ray_distill.errors import Stopped


@dataclass
class Signals:
    """Signals that have arrived. They call ``request_stop`` while there is something to save, and else raise
    Stopped."""

    signum: int | None = None
    request_stop: Callable[[], None] | None = None

    def handle(self, signum: int, _frame: Any) -> None:
        if self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum
        if self.request_stop is None:
            raise Stopped(signum)
        print(f"\n{signal.Signals(signum).name}: saving, then leaving (again: leave at once)", file=sys.stderr)
        self.request_stop()


@contextmanager
def watch_signals() -> Iterator[Signals]:
    """Handle SIGINT and SIGTERM in the main thread; in any other thread do nothing. Raise Stopped where a signal ends
    a call of Ray's, from which a handler's exception comes as the cause of a SystemError."""
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {number: signal.signal(number, signals.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    except SystemError as error:
        if isinstance(error.__cause__, Stopped | KeyboardInterrupt):
            raise error.__cause__ from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def own_session() -> Iterator[None]:
    """Give the processes of a Ray that starts inside their own session, and so their own process group.

    ``timeout`` and shells send SIGTERM to the driver's whole group: a Ray in it would end before the driver's last
    save. ``ray.init`` has no option for it. Ray still ends with its driver, whose death its processes watch.
    """
    start: Any = services.ConsolePopen
    services.ConsolePopen = partial(start, start_new_session=True)  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        services.ConsolePopen = start  # type: ignore[misc]
