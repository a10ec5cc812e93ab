"""Dotted keys, and the nearest known key for an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from ray_distill.errors import ConfigError

__all__ = ["ConfigError", "flatten", "nearest", "plain", "set_dotted"]


def nearest(key: str, names: Iterable[str]) -> str:
    """Hint 'did you mean X?', or the known keys if none is near."""
    choices = list(names)
    close = difflib.get_close_matches(key, choices, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(choices))}"


def plain(value: Any) -> str:
    """A value as one writes it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(plain, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {plain(each)}' for key, each in value.items())}}}"
    if isinstance(value, float):
        return short if float(short := f"{value:g}") == value else repr(value)
    if isinstance(value, BaseModel):
        return "{}"
    return str(value) or '""'


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def set_dotted(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set ``a.b.c`` in nested dictionaries, and make missing ones; in a list a part is the number of an item that is
    there. ValueError if a part is neither section nor item."""
    *sections, last = key.split(".")
    node: Any = tree
    for section in sections:
        node = node[_item(node, section, key)] if isinstance(node, list) else node.setdefault(section, {})
        if not isinstance(node, dict | list):
            raise ValueError(f"{key}: {section!r} has a value and no keys of its own; give one of the two")
    node[_item(node, last, key) if isinstance(node, list) else last] = value


def _item(items: list[Any], part: str, key: str) -> int:
    if not (part.isdecimal() and int(part) < len(items)):
        raise ValueError(f"{key}: {part!r} is no item of this list of {len(items)}; give 0 to {len(items) - 1}, or all")
    return int(part)
