"""ConfigError, the user's mistake, and Stopped, the user's wish: one line each; other errors show their traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class ConfigError(ValueError):
    """The user's configuration is wrong, or a file that it names; the message names key, value and remedy."""


class Stopped(Exception):
    """The user asked for an end, and nothing that was saved is lost. ``signum`` is the signal that asked."""

    def __init__(self, signum: int, step: int | None = None) -> None:
        where = "stopped" if step is None else f"stopped at step {step}, which is saved"
        super().__init__(f"{where}; the same command goes on from there")
        self.signum = signum


@contextmanager
def mistakes() -> Iterator[None]:
    """Inside, a plain ValueError is the user's mistake: rooms that know no configuration raise it for wrong files.

    Its subclasses (of JSON, Unicode, Arrow) are ours: who reads a file names it, with a plain one.
    """
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise ConfigError(str(error)) from error
