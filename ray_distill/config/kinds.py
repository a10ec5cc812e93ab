"""Kinds of values that a dotted key may hold, by the schema: text, a path, null."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel


@dataclass(frozen=True)
class Kinds:
    """Types that a value may have: the members of a union, without validators."""

    types: tuple[Any, ...] = ()

    @classmethod
    def of(cls, *annotations: Any) -> Kinds:
        return cls(tuple(kind for annotation in annotations for kind in _plain(annotation)))

    @property
    def text(self) -> bool:
        """True if a value without quotes is text unchanged. A choice of names does not count, since it takes no other
        text."""
        return str in self.types or self.path

    @property
    def path(self) -> bool:
        return Path in self.types

    @property
    def null(self) -> bool:
        return NoneType in self.types

    def child(self, part: str) -> Kinds:
        """The kinds under the key or the number ``part``."""
        return Kinds.of(*(annotation for kind in self.types for annotation in _below(kind, part)))

    def at(self, parts: Sequence[str]) -> Kinds:
        return self.child(parts[0]).at(parts[1:]) if parts else self


def _plain(annotation: Any) -> Iterable[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _plain(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _plain(member)
    else:
        yield annotation


def _below(kind: Any, part: str) -> Iterable[Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        field = kind.model_fields.get(part)
        return [] if field is None else [field.annotation]
    if get_origin(kind) is dict:
        return [get_args(kind)[1]]
    return [get_args(kind)[0]] if get_origin(kind) is tuple else []
