"""Rules that many of FastVideo's keys share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray_distill.fastvideo.file import File, Rule
from ray_distill.simpletuner.outcome import Outcome
from ray_distill.simpletuner.values import Refused, number, off

STUDENT, FAKE = "roles.student.optimizer", "roles.fake_score.optimizer"


def to(*keys: str, kind: Callable[[Any], Any] = number, note: str = "") -> Rule:
    """Set each of ``keys`` to the value, as ``kind`` reads it."""
    return lambda key, value, file: Outcome(dict.fromkeys(keys, kind(value)), note)


def idle(why: str, *usual: Any) -> Rule:
    """Note that the key has no effect; this is a warning unless it is off or asks for one of ``usual``."""
    return lambda key, value, file: Outcome(note=f"no effect: {why}", warn=not off(value) and value not in usual)


def only(why: str, *usual: Any) -> Rule:
    """Refuse the key, unless it is off, or one of ``usual``, the behaviour here."""

    def rule(key: str, value: Any, file: File) -> Outcome:
        if off(value) or value in usual:
            return Outcome(note="asks for nothing beyond the default")
        raise Refused(f"{why}; remove it" + (f", or use {usual[0]}" if usual else ""))

    return rule


def accept(note: str) -> Rule:
    """Accept the key without setting anything."""
    return lambda key, value, file: Outcome(note=note)


def betas(value: Any) -> list[float]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise Refused("expected two numbers")
    return [number(each) for each in value]
