"""The memory that a process holds, measured from its own pages."""

from __future__ import annotations

import ctypes
import threading
import time
from pathlib import Path


class Peak:
    """The most memory of its own, pages of files left out, that this process holds above where it began.

    What is freed is given back at once: malloc would keep holes that say nothing of what is held."""

    def __init__(self) -> None:
        M_MMAP_THRESHOLD = -3
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 16)
        self.start = self.most = self._now()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @staticmethod
    def _now() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024

    def _watch(self) -> None:
        while not self._done.is_set():
            self.most = max(self.most, self._now())
            time.sleep(0.0005)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.most = max(self.most, self._now())

    @property
    def rise(self) -> int:
        return self.most - self.start
