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
    """Signals that have arrived: ``request_stop`` is called by the first while there is something to save."""

    signum: int | None = None
    request_stop: Callable[[], None] | None = None

    def handle(self, signum: int, _frame: Any) -> None:
        """Ask for a stop, or raise KeyboardInterrupt: what else a handler raises Ray holds back until its call ends by
        itself (findings/ray_signal.sh)."""
        if self.signum is not None or self.request_stop is None:
            self.signum = self.signum or signum
            raise KeyboardInterrupt
        self.signum = signum
        print(f"\n{signal.Signals(signum).name}: saving, then leaving (again: leave at once)", file=sys.stderr)
        self.request_stop()


@contextmanager
def watch_signals() -> Iterator[Signals]:
    """Handle SIGINT and SIGTERM in the main thread, and raise Stopped for what they interrupt; in any other thread do
    nothing."""
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {number: signal.signal(number, signals.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    except KeyboardInterrupt:
        if signals.signum is None:
            raise
        raise Stopped(signals.signum) from None
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
