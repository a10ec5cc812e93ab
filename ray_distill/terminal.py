"""Standard output whose reader may leave (| head), without a traceback and without ending the run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast


class Patient:
    """A stream that discards all further text once its reader has gone."""

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
        """Replace the closed pipe by the null device, which swallows the buffered text and all further text."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._stream.fileno())
        os.close(nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def patient() -> Iterator[None]:
    """Make standard output and error ``Patient`` in the block, and flush them at its end, before Python reports the
    pipe."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, Patient(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


class AboveBars:
    """Stream that prints log lines on standard error, above the bars."""

    def write(self, text: str) -> None:
        from ray_distill.bars import write  # imports tqdm, which parsing a command line does not need

        write(text, end="")

    def flush(self) -> None:
        sys.stderr.flush()
