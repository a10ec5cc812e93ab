"""Read a configuration: YAML < environment (RAY_DISTILL_TRAIN__STEPS=10) < command line (train.steps=10)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from ray_distill.columns import columns
from ray_distill.config import tree as yaml_tree
from ray_distill.config.keys import ConfigError, flatten, nearest, plain, set_dotted
from ray_distill.config.kinds import Kinds
from ray_distill.config.method import aliases
from ray_distill.config.roles import follow_students
from ray_distill.config.schema import RunConfig
from ray_distill.plaintext import NotText, read_text
from ray_distill.secrets import mask, mask_tree

ENVIRONMENT = "RAY_DISTILL_"
COMMAND_LINE = "command line"
"""The source of a value that an override of the command line sets; the environment's are ``$NAME``."""
DEFAULT = "default"
"""The source of a value that nothing sets."""
EMPTY = "give a text; the empty text is the key with nothing behind it, and 'null' in quotes is the word null"
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Loaded:
    """A configuration and the source of each of its values ("default" if none set it).

    For a file of another tool ``tree`` holds it as a tree of our keys, ``report`` has a line for each of its keys,
    ``warnings`` are for the user, and ``before`` is a run that must come first.
    """

    config: RunConfig
    sources: Mapping[str, str]
    tree: Mapping[str, Any] = field(default_factory=dict)
    report: Sequence[str] = ()
    warnings: Sequence[str] = ()
    before: Loaded | None = None

    def table(self) -> str:
        """Text with one line for each key that is set: key, value, source; and the number of the others."""
        rows = [(k, plain(v), self.source(k)) for k, v in flatten(self.config.dump()).items()]
        explicit = [row for row in rows if row[2] != DEFAULT]
        return f"{columns(explicit, widest=48)}\n{len(rows) - len(explicit)} other keys have their defaults (--all)"

    def source(self, key: str) -> str:
        spelt = {f"method.{name}": f"method.{alias}" for alias, name in aliases(self.config.method).items()}
        return self.sources.get(key) or self.sources.get(spelt.get(key, ""), DEFAULT)


@dataclass(frozen=True)
class Override:
    key: str
    value: Any
    source: str


def load_config(path: Path, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Loaded:
    """Read a YAML file, apply overrides, validate; ConfigError for a mistake."""
    changes = read_overrides(overrides, os.environ if environment is None else environment)
    tree, sources = read_yaml(path)
    if "space" in tree:
        raise ConfigError(f"{path} is a sweep, not a run: ray-distill tune {path}; its runs begin with its base")
    tree = apply(changes, tree, sources)
    sources |= follow_students(tree)
    return Loaded(config_of(RunConfig, tree, sources), sources)


def write_yaml(path: Path, loaded: Loaded, origin: str) -> None:
    """Write another tool's file as one of our configurations, with its report on top."""
    head = [f"# ray-distill import of {origin}. Each of its keys became:", *(f"#   {r}" for r in loaded.report)]
    tree = mask_tree(dict(loaded.tree))
    body = yaml.dump(tree, Dumper=yaml_tree.Dumper, sort_keys=False, allow_unicode=True, width=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*map(yaml_tree.comment, head), body]))


def load(
    model: type[M], path: Path, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> tuple[M, dict[str, str]]:
    """A strict configuration of type ``model`` from a YAML file, and the source of each of its keys."""
    tree, sources = read_yaml(path, model)
    changes = read_overrides(overrides, environment or {}, model)
    return config_of(model, apply(changes, tree, sources), sources), sources


def read_yaml(path: Path, model: type[BaseModel] = RunConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """The file's tree, and the file as the source of each key. ``model`` tells which keys are text."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such configuration file")
    try:
        tree = yaml_tree.parse(read_text(path), Kinds.of(model)) or {}
    except NotText as error:
        raise ConfigError(str(error)) from None
    except ConfigError as error:
        raise ConfigError(mask(f"{path}: {error}")) from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of keys, found a {type(tree).__name__}")
    return tree, {key: str(path) for key in flatten(tree)}


def read_overrides(
    overrides: Sequence[str], environment: Mapping[str, str], model: type[BaseModel] = RunConfig
) -> list[Override]:
    """Overrides of the environment, then of the command line; later ones win."""
    changes = []
    for name, text in sorted(environment.items()):
        if name.startswith(ENVIRONMENT):
            changes.append(
                _override(name.removeprefix(ENVIRONMENT).lower().replace("__", "."), text, f"${name}", model)
            )
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(f"{mask(item)!r}: overrides are written key=value, for example train.steps=100")
        changes.append(_override(key, text, COMMAND_LINE, model))
    return changes


def apply(changes: Sequence[Override], tree: dict[str, Any], sources: dict[str, str]) -> dict[str, Any]:
    """Make the changes in ``tree`` and in ``sources``; returns ``tree``."""
    for change in changes:
        key, value = change.key, change.value
        try:
            set_dotted(tree, key, value)
        except ValueError as error:
            raise ConfigError(mask(f"{change.source}: {key}={value}: {error}")) from None
        for replaced in [name for name in sources if name.startswith(f"{key}.")]:
            del sources[replaced]
        if owner := next((name for name in sources if key.startswith(f"{name}.")), None):  # a list with this item
            sources[owner] = change.source
            continue
        sources |= dict.fromkeys(flatten({key: value}) if isinstance(value, dict) else [key], change.source)
    return tree


def config_of(model: type[M], tree: Mapping[str, Any], sources: Mapping[str, str] | None = None) -> M:
    """``tree`` as a configuration; ConfigError names each wrong key."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(mask(_explain(error, sources or {}, model))) from None


def _override(key: str, text: str, source: str, model: type[BaseModel]) -> Override:
    try:
        return Override(key, yaml_tree.override(text, Kinds.of(model).at(key.split("."))), source)
    except ConfigError as error:
        raise ConfigError(mask(f"{source}: {key}={text}: {error}")) from None


def _explain(error: ValidationError, sources: Mapping[str, str], model: type[BaseModel]) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        where = _where(key, sources)
        if problem["type"] == "extra_forbidden":
            lines.append(
                f"{key}: unknown key{where}; {nearest(key.rpartition('.')[2], _siblings(problem['loc'], model))}"
            )
        elif problem["type"] == "missing":
            lines.append(f"{key}: required, and not set")
        elif problem["type"] == "value_error":
            message = problem["msg"].removeprefix("Value error, ")
            begins = message.partition(" ")[0].strip(",:")  # a section's message begins with its key
            where = where or _where(begins, sources) or _where(f"{key}.{begins}", sources)
            lines.append(f"{message}{where}" if not key or key in message else f"{key}: {message}{where}")
        elif problem["type"] == "too_short":
            if len(problem["input"]) < problem["ctx"]["min_length"]:  # otherwise each wrong item has its own line
                lines.append(f"{key} = {problem['input']!r}{where}: give at least {problem['ctx']['min_length']}")
        else:
            no_text = problem["type"] in ("string_type", "path_type") and problem["input"] is None
            message = EMPTY if no_text else problem["msg"]
            if problem["type"] == "tuple_type":
                message = f"give the whole list: {key}=[...]"
            if problem["type"] == "string_pattern_mismatch":  # every pattern is that of a name
                slash = " and one '/'" if "/" in problem["ctx"]["pattern"] else ""
                message = f"a name has letters, digits, '_', '-', '.'{slash} alone"
            lines.append(f"{key} = {shortened(problem['input'])}{where}: {message}")
    return "\n".join(lines)


def _where(key: str, sources: Mapping[str, str]) -> str:
    """The source of ``key``, or of the list that it is an item of, in brackets; "" where neither has one."""
    source = sources.get(key) or sources.get(re.sub(r"\.\d+$", "", key))
    return f" ({source})" if source else ""


def shortened(value: Any, most: int = 200) -> str:
    """``repr`` of ``value``, cut in the middle, since a list may have thousands of items."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 4 :]}"


def _siblings(location: tuple[int | str, ...], model: Any) -> list[str]:
    """Known keys of the section of an unknown key."""
    for part in location[:-1]:
        fields = getattr(model, "model_fields", {})
        annotation = fields[part].annotation if part in fields else model
        inner = [annotation, *getattr(annotation, "__args__", ())]
        model = next((a for a in inner if isinstance(a, type) and issubclass(a, BaseModel)), model)
    return list(model.model_fields)
