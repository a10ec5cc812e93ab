"""Report of an import: one line per key, and warnings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ray_distill.simpletuner.outcome import Outcome

SECRET = {"secret", "token", "password", "key"}
"""Words in a key's name that mark its value as a secret."""


@dataclass(frozen=True)
class Line:
    """A key, its value and its outcome; ``assumed``: the value is SimpleTuner's default, since the file does not set
    the key; ``of``: the dataset's name, where there are several."""

    key: str
    value: Any
    outcome: Outcome
    assumed: bool = False
    of: str = ""

    @property
    def setting(self) -> str:
        """``key = value`` as short text."""
        return f"{self.key} = {short_text(self.key, self.value)}{f' (of {self.of})' if self.of else ''}"

    def text(self, overridden: Mapping[str, Any]) -> str:
        became = [
            f"{key} = {_short(value)}{' (set elsewhere)' if key in overridden else ''}"
            for key, value in self.outcome.values.items()
        ]
        what = ", ".join(became) if became else "" if self.outcome.note.startswith("no effect") else "accepted"
        outcome = f"{what}: {self.outcome.note}" if what and self.outcome.note else what or self.outcome.note
        return f"{self.setting}{' (its default)' if self.assumed else ''} -> {outcome}"


def warnings(lines: Iterable[Line]) -> list[str]:
    """The warnings of an import: each reason once, with its keys."""
    by_note: dict[str, list[str]] = {}
    for line in lines:
        if line.outcome.warn and (line.outcome.values or not line.assumed):
            by_note.setdefault(line.outcome.note, []).append(line.setting)
    return [f"{', '.join(keys)}: {note}" for note, keys in by_note.items()]


def short_text(key: str, value: Any) -> str:
    """A value as short text; *** where it may be a secret."""
    return _short(_mask(key, value))


def quote(key: str, value: Any) -> str:
    """A value for an error message, as Python's repr; *** where it may be a secret."""
    result = _mask(key, value)
    return result if result == "***" else repr(result)


def _mask(key: str, value: Any) -> Any:
    words = set(key.lower().split("_"))
    # Some files have a web hook's address in place of the name of a file with the address.
    address = "webhook" in words and (isinstance(value, dict | list) or "://" in str(value))
    if SECRET & words or address:
        return "***"
    if isinstance(value, dict):
        return {name: _mask(name, each) for name, each in value.items()}
    return [_mask(key, each) for each in value] if isinstance(value, list) else value


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 64 else f"{text[:61]}..."
