"""Rules that many of SimpleTuner's keys share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ray_distill.simpletuner.outcome import File, Outcome, Rule
from ray_distill.simpletuner.values import Refused, number, off, one_of


def to(*keys: str, kind: Callable[[Any], Any] = number, note: str = "") -> Rule:
    """Set each of ``keys`` to the value, as ``kind`` reads it."""
    return lambda value, file: Outcome(dict.fromkeys(keys, kind(value)), note)


def form(key: str) -> Rule:
    return lambda value, file: Outcome({key: one_of(value, ("std", "extra"))})


def no_effect(why: str) -> Rule:
    """Warn that the key has no effect."""
    return lambda value, file: Outcome(note=why, warn=True)


def accept(note: str) -> Rule:
    """Accept the key without setting anything, since the behaviour here is already so."""
    return lambda value, file: Outcome(note=note)


def idle(why: str, anyway: str | None = None) -> Rule:
    """Note that the key has no effect; this is a warning unless the key is off, or asks for ``anyway``."""
    return lambda value, file: Outcome(note=f"no effect: {why}", warn=not off(value) and str(value) != anyway)


def only_off(why: str, *usual: str) -> Rule:
    """Refuse the key, unless it is off, or asks for ``usual``, the behaviour here."""

    def rule(value: Any, file: File) -> Outcome:
        if off(value) or str(value) in usual:
            return Outcome(note="asks for nothing beyond the default")
        raise Refused(f"{why}; remove it" + (f", or use {usual[0]}" if usual else ""))

    return rule


def older_name(today: str, rule: Rule) -> Rule:
    """Rule of a key by its older name, which SimpleTuner still accepts."""

    def read(value: Any, file: File) -> Outcome:
        outcome = rule(value, file)
        if today in file.settings and dict(rule(file.settings[today], file).values) != dict(outcome.values):
            raise Refused(
                f"{today} = {file.settings[today]!r} is its name today, with another value; remove one of them"
            )
        return Outcome(outcome.values, f"its name today is {today}", outcome.warn)

    return read


def is_hub_name(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None
