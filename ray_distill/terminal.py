"""Standard output whose reader may leave (| head): no traceback, and no run ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast


class Patient:
    """A stream that goes on, into nothing, where its reader has gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._forget()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._forget()

    def _forget(self) -> None:
        """Let the closed pipe be the null device: what is still buffered goes there, and all that follows."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._stream.fileno())
        os.close(nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def patient() -> Iterator[None]:
    """Standard output and error as ``Patient`` ones, flushed at the end: at exit Python would tell of a closed pipe."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, Patient(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


class AboveBars:
    """Standard error as a stream for log lines, which go above the bars."""

    def write(self, text: str) -> None:
        from ray_distill.bars import write  # tqdm, which a parser of the command line does without

        write(text, end="")

    def flush(self) -> None:
        sys.stderr.flush()
