"""Warn of a method's keys that have no effect beside its other keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any


def idle_warnings(method: Any, reasons: Mapping[str, str]) -> list[str]:
    """One warning for each key of ``reasons``, which says why it has no effect, whose value is not the default."""
    defaults = {field.name: field.default for field in fields(method)}
    values = ((key, getattr(method, key), why) for key, why in reasons.items())
    return [f"method.{key} = {value}: no effect, {why}" for key, value, why in values if value != defaults[key]]
