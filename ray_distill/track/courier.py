"""The thread that sends to MLflow, and bounded waits for an item."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LOOK_S = 0.05
"""Interval at which a wait checks whether it is over."""


class Courier:
    """Call ``send`` after each ``nudge``, in a thread that starts with the first nudge and delays no exit.

    A pool's thread would delay it: Python joins threads of ``concurrent.futures`` at exit, however slow the server is.
    """

    def __init__(self, send: Callable[[], object]) -> None:
        self._send = send
        self._changed = threading.Condition()
        self._asked = self._done = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    @staticmethod
    def now() -> float:
        """Seconds of a monotonic clock."""
        return time.monotonic()

    def nudge(self) -> int:
        """Ask for a call of ``send`` that begins after now; returns its number."""
        with self._changed:
            self._asked += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return self._asked

    def close(self) -> None:
        """Let the thread end after the requested calls."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait(self, nudge: int, seconds: float, over: Callable[[], bool] = lambda: False) -> bool:
        """Wait until the call of ``nudge`` has ended or ``over`` holds; False after ``seconds`` without either."""
        deadline = self.now() + seconds
        while self._done < nudge and not over():
            if (left := deadline - self.now()) <= 0:
                return False
            with self._changed:
                self._changed.wait(min(left, LOOK_S))
        return True

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._asked > self._done)
                if self._asked == self._done:
                    return
                asked = self._asked
            try:
                self._send()
            except BaseException:
                self._thread = None  # the next nudge starts another
                raise
            finally:
                with self._changed:
                    self._done = asked
                    self._changed.notify_all()
