"""Print a run's messages on standard error; standard output is for a command's result."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray._private import services

from ray_distill.bars import write
from ray_distill.secrets import mask


def say(text: str) -> None:
    """Print to standard error, without secrets and above the bars."""
    write(mask(text))


CORE = "RAY_BACKEND_LOG_LEVEL"


@contextmanager
def silent_core() -> Iterator[None]:
    """Keep the log of Ray's core in this process off the terminal, where a Ray is started or joined inside.

    Ray reads the level only from the environment, when it connects, and prints a line about it. Processes that it
    starts inside do not inherit the level, so their log files are unchanged; a level that the user has set stays.
    """
    if CORE in os.environ:
        yield
        return
    start: Any = services.ConsolePopen

    def without(*command: Any, env: dict[str, str] | None = None, **how: Any) -> Any:
        kept = {key: value for key, value in (os.environ if env is None else env).items() if key != CORE}
        return start(*command, env=kept, **how)

    services.ConsolePopen = without  # type: ignore[misc,assignment]
    os.environ[CORE] = "fatal"
    try:
        with _without_lines(CORE.encode()):
            yield
    finally:
        services.ConsolePopen = start  # type: ignore[misc]
        del os.environ[CORE]


@contextmanager
def _without_lines(word: bytes) -> Iterator[None]:
    """Hold back writes to descriptor 2 inside; write them at the end, without lines that contain ``word``."""
    with tempfile.TemporaryFile() as lines:
        sys.stderr.flush()
        terminal = os.dup(2)
        os.dup2(lines.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            lines.seek(0)
            for line in lines:
                if word not in line:
                    os.write(2, line)
