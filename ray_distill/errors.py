"""ConfigError (the user's mistake) and Stopped (the user's wish) print one line; other errors print a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class ConfigError(ValueError):
    """The user's configuration is wrong, or a file that it names; the message names key, value and remedy."""


class Stopped(Exception):
    """The user stopped the run by the signal ``signum``; nothing that was saved is lost."""

    def __init__(self, signum: int, step: int | None = None) -> None:
        where = "stopped" if step is None else f"stopped at step {step}, which is saved"
        super().__init__(f"{where}; the same command goes on from there")
        self.signum = signum


@contextmanager
def mistakes() -> Iterator[None]:
    """Turn a plain ValueError of the block into a ConfigError: modules that know no configuration raise it for wrong
    files.

    Subclasses (of JSON, Unicode, Arrow) pass through as our own bugs: code that reads a file catches them, and raises a
    plain ValueError that names the file.
    """
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise ConfigError(str(error)) from error
