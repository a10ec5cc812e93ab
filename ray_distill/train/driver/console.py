"""Print what a run does on standard error; standard output is for what a command returns."""

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

    Ray reads the level when it connects, from the environment alone, and says so in a line. Processes that it starts
    inside do not inherit the level, so their log files are as ever; a level that the user has set stays.
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
    """Hold back what is written to descriptor 2 inside; write it at the end, without the lines that have ``word``."""
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
