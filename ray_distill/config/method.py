"""The `method` section: the method's own frozen dataclass, chosen by its name."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ray_distill.config.keys import nearest
from ray_distill.methods import METHODS


def read_method(value: Any) -> Any:
    """The method's own frozen dataclass from ``{name: dmd, ...}``."""
    if not isinstance(value, dict):
        raise ValueError(f"method = {value!r}: write a section with a name, one of {', '.join(METHODS)}")
    fields = dict(value)
    name, mode = fields.pop("name", None), fields.get("mode")
    modes = [method.removeprefix(f"{name}_") for method in METHODS if method.startswith(f"{name}_")]
    if mode in modes:
        name = f"{name}_{fields.pop('mode')}"
    elif modes and name not in METHODS:
        raise ValueError(f"method.mode = {mode!r}: choose from the modes of {name!r}: {', '.join(modes)}")
    if name not in METHODS:
        raise ValueError(f"method.name = {name!r}: {nearest(str(name), METHODS)}")
    cls = METHODS[name]
    for alias, key in aliases(cls).items():
        if alias in fields and key in fields:
            raise ValueError(f"method.{alias} is another spelling of method.{key}; remove one of them")
        if alias in fields:
            fields[key] = fields.pop(alias)
    kinds = {field.name: str(field.type) for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    names = list(kinds)
    for key in fields:
        if key not in names:
            others = [
                other for other in sorted(METHODS, key=len) if key in vars(METHODS[other])["__dataclass_fields__"]
            ]
            remedy = f"it is a key of {', '.join(others)}" if others else nearest(key, names)
            raise ValueError(f"method.{key}: method {name!r} has no such key; {remedy}")
    for key in fields:
        fields[key] = _numbers(fields[key], kinds[key])
    for key, value in fields.items():
        _check_number(key, value)
    try:
        return TypeAdapter(cls).validate_python(fields)
    except ValidationError as error:
        raise ValueError("; ".join(_problem(problem) for problem in error.errors())) from None


LARGEST = 1e9
LONGEST = dict.fromkeys(("euler_steps", "solver_steps", "sampling_steps", "multiphase"), 10_000)
LONGEST["student_interval"] = 1_000_000
"""Largest length of a list that a method makes of a number."""


def _check_number(key: str, value: Any) -> None:
    """ValueError for NaN, infinities and numbers beyond any method's use, in any spelling."""
    for one in value if isinstance(value, list | tuple) else [value]:
        try:
            number = float(one)
        except (TypeError, ValueError, OverflowError):
            number = math.inf if isinstance(one, int) else 0.0
        if not abs(number) <= LONGEST.get(key, LARGEST):
            raise ValueError(
                f"method.{key} = {str(one)[:40]}: give a finite number, at most {LONGEST.get(key, LARGEST):g}"
            )


def aliases(method: Any) -> dict[str, str]:
    """Other tools' spellings of a method's keys (pydantic has a meaning of its own for "alias")."""
    fields = dataclasses.fields(method)
    return {field.metadata["elsewhere"]: field.name for field in fields if "elsewhere" in field.metadata}


def _problem(problem: Any) -> str:
    key = ".".join(map(str, problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ")
    return f"method.{key} = {problem['input']!r}: {message}" if key else f"method.{message}"


def method_fields(method: Any) -> dict[str, Any]:
    return {"name": method.name, **dataclasses.asdict(method)}


def _numbers(value: Any, kind: str) -> Any:
    """``1000,757,522``, which YAML reads as text, as a list where ``kind``, a field's annotation, has lists; where it
    has lists alone, a single number as well."""
    alone = kind.startswith("tuple[")
    if isinstance(value, str) and (alone or ("tuple[" in kind and "," in value)):
        return value.split(",")
    return [value] if alone and isinstance(value, int | float) else value
