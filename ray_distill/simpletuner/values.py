"""Read values of SimpleTuner's files: numbers and flags that may be text, null and ""."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


class Refused(ValueError):
    """Error: a value that this tool does not take; the message says why, and what to do."""


def blank(value: Any) -> bool:
    """True for a value that SimpleTuner reads as an absent key."""
    return value is None or (isinstance(value, str) and not value.strip())


def off(value: Any) -> bool:
    """True where a switch, a weight or a list with this value does nothing."""
    return not value or str(value).strip().lower() in (*FALSE, "none", "null", "no_change", "[]", "{}", "0.0")


def number(value: Any) -> float:
    try:
        if not isinstance(value, bool) and math.isfinite(float(value)):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise Refused("expected a number")


def whole(value: Any) -> int:
    count = number(value)
    if count != int(count):
        raise Refused("expected a whole number")
    return int(count)


def one_or_more(value: Any) -> int:
    if (count := whole(value)) < 1:
        raise Refused("expected a whole number of 1 or more")
    return count


def flag(value: Any) -> bool:
    word = str(value).strip().lower()
    if word not in TRUE + FALSE:
        raise Refused("expected true or false")
    return word in TRUE


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise Refused("expected text")
    return value


def texts(value: Any) -> list[str]:
    """A list of names, from a list or from text with commas."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Refused("expected a list of names")
    return [name.strip() for name in names if name.strip()]


def one_of(value: Any, names: Iterable[str], key: str = "") -> str:
    choices = list(names)
    if value not in choices:
        raise Refused(f"{key or 'known'}: {', '.join(choices)}")
    return str(value)
