"""ConfigError, the user's mistake: one line and exit code 2; every other error is ours and shows its traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class ConfigError(ValueError):
    """The user's configuration is wrong, or a file that it names; the message names key, value and remedy."""


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
