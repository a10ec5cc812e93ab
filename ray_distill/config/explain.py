"""Explain the keys of a configuration: what each one holds, its default, its meaning, and the methods that have it.

A key's meaning is the text under its field, in the class that defines it.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import annotated_types
from pydantic import BaseModel

from ray_distill.columns import columns
from ray_distill.config.keys import ConfigError, flatten, nearest, plain
from ray_distill.config.load import Loaded
from ray_distill.config.schema import RunConfig
from ray_distill.methods import METHODS

METHOD, ANY, NUMBER = "method", "NAME", "N"
"""The section whose keys the method decides, and the parts of a key that stand for any name and any number."""
WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path", NoneType: "null"}
BOUNDS = {
    annotated_types.Gt: (">", "gt"),
    annotated_types.Ge: (">=", "ge"),
    annotated_types.Lt: ("<", "lt"),
    annotated_types.Le: ("<=", "le"),
}


@dataclass(frozen=True)
class Key:
    """One key of a configuration. ``default`` is None for a key that must be given."""

    name: str
    kind: str
    default: str | None
    meaning: str
    methods: tuple[str, ...] = ()
    """The methods that have it; empty for keys outside of ``method``."""

    def is_at(self, name: str, whole: bool = False) -> bool:
        """True if the dotted ``name`` is this key, or without ``whole`` a section above it."""
        parts, own = name.count("."), self.name.count(".")
        return _agree(self.name, name) and (parts == own if whole else parts <= own)

    def lines(self) -> list[str]:
        """The key in words, for a terminal."""
        rest = f"default {self.default}" if self.default is not None else "required"
        head = f"{self.name}: {self.kind}; {rest}"
        text = textwrap.wrap(self.meaning, 100, initial_indent="  ", subsequent_indent="  ")
        return [head, *text, *([f"  of {', '.join(self.methods)}"] if self.methods else [])]


def _agree(pattern: str, name: str) -> bool:
    """True if two dotted names agree as far as the shorter goes; NAME agrees with any part, N with a number."""
    pairs = zip(pattern.split("."), name.split("."), strict=False)
    return all(one in (part, ANY) or (one == NUMBER and part.isdigit()) for one, part in pairs)


def all_keys() -> tuple[Key, ...]:
    """Every key, section by section in the order of the schema."""
    return tuple(_of_section(RunConfig, ""))


def explain(loaded: Loaded, names: Sequence[str]) -> str:
    """The keys ``names``, or the keys of the sections ``names``, in words, with their values in ``loaded``; ConfigError
    for an unknown one."""
    keys, values = all_keys(), flatten(loaded.config.dump())
    lines = []
    for name in names:
        matches = [key for key in keys if key.is_at(name)]
        if not matches:
            raise ConfigError(f"--explain {name}: no such key; {nearest(name, [key.name for key in keys])}")
        for key in matches:
            lines += key.lines()
            own = [own for own in values if key.is_at(own, whole=True) and _agree(name, own)]
            lines += [f"  {one} = {plain(values[one])} ({loaded.source(one)})" for one in own]
    return "\n".join(lines)


def table(loaded: Loaded) -> str:
    """Every key of ``loaded`` with its value, its source and its meaning, one line each."""
    keys, method = all_keys(), loaded.config.method.name

    def meaning(name: str) -> str:
        of = [key for key in keys if key.is_at(name, whole=True) and (not key.methods or method in key.methods)]
        return of[0].meaning if of else ""

    flat = flatten(loaded.config.dump())
    rows = [(name, plain(value), loaded.source(name), meaning(name)) for name, value in flat.items()]
    return columns(rows, widest=48)


def meanings(section: type) -> dict[str, str]:
    """The text under each field of a class and of its bases, in one line each."""
    texts: dict[str, str] = {}
    for base in reversed(section.__mro__):
        if base.__module__.startswith("ray_distill"):
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            assert isinstance(tree, ast.ClassDef)
            texts |= dict(_texts(tree.body))
    return texts


def _texts(body: Iterable[ast.stmt]) -> Iterator[tuple[str, str]]:
    field = None
    for node in body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and field:
            yield field, " ".join(str(node.value.value).split())
        field = node.target.id if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else None


def _of_section(section: type[BaseModel], prefix: str) -> Iterator[Key]:
    texts = meanings(section)
    for name, field in section.model_fields.items():
        if name == METHOD:
            yield from _of_methods()
            continue
        inner = list(_sections(field.annotation))
        value = None if field.is_required() else plain(field.get_default(call_default_factory=True))
        if not inner or value == "null" or inner[0][0]:
            kind = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
            yield Key(prefix + name, word(kind), value, texts.get(name, ""))
        for part, below in inner:
            yield from _of_section(below, f"{prefix}{name}.{part}")


def _of_methods() -> Iterator[Key]:
    """The keys of all methods. A key that differs between methods stands once for each kind, default and meaning."""
    yield Key(
        f"{METHOD}.name", "text", None, f"The method: {', '.join(sorted(METHODS))}. docs/methods.md describes each."
    )
    methods: dict[Key, list[str]] = {}
    for method, cls in METHODS.items():
        hints, texts = get_type_hints(cls, include_extras=True), meanings(cls)
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            key = Key(
                f"{METHOD}.{field.name}", word(hints[field.name]), plain(field.default), texts.get(field.name, "")
            )
            methods.setdefault(key, []).append(method)
    for key in sorted(methods, key=lambda key: key.name):
        yield dataclasses.replace(key, methods=tuple(sorted(methods[key])))


def _sections(annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """The sections within a field's type, each with the part of its keys that stands before them."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "", annotation
    elif origin is dict:
        yield from ((f"{ANY}.{part}", section) for part, section in _sections(inner[1]))
    elif origin is tuple:
        yield from ((f"{NUMBER}.{part}", section) for part, section in _sections(inner[0]))
    elif origin in (Union, UnionType, Annotated):
        for one in inner if origin is not Annotated else inner[:1]:
            yield from _sections(one)


def word(kind: Any) -> str:
    """The type of a value in words: ``whole number > 0``, ``a or b``, ``list of text``."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return word(inner[0]) + _bounds(inner[1:])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(word(one) for one in inner))
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin is tuple:
        return f"list of {word(inner[0])}" if Ellipsis in inner else f"[{', '.join(map(word, inner))}]"
    if origin in (dict, Mapping):
        return f"names, each with {word(inner[1])}"
    return WORDS.get(kind) or "section"


def _bounds(metadata: Iterable[Any]) -> str:
    """Bounds of a number, from its annotations and from fields within them."""
    bounds = []
    for one in metadata:
        for bound in getattr(one, "metadata", [one]):
            bounds += [
                f"{sign} {getattr(bound, sign_of)}" for kind, (sign, sign_of) in BOUNDS.items() if type(bound) is kind
            ]
    return f" {', '.join(bounds)}" if bounds else ""
