"""A SimpleTuner configuration as a RunConfig's tree, with a line for each key that says what it became."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ray_distill.config.keys import ConfigError, flatten, nearest, set_dotted
from ray_distill.config.simpletuner.dataset import datasets
from ray_distill.config.simpletuner.dcm import BEFORE, COMES_FIRST
from ray_distill.config.simpletuner.keys import KEYS
from ray_distill.config.simpletuner.method import ALIASES, METHOD_NAMES, table_of
from ray_distill.config.simpletuner.outcome import ABSENT, File, Key, Outcome, Refused
from ray_distill.data.listing import entries
from ray_distill.data.source import Source
from ray_distill.methods import METHODS

METHOD, SECTION = "distillation_method", "distillation_config"
FINE_ALONE = ("method.", "roles.discriminator", "roles.student.path", "publish")
"""Overrides of a fine run that are not for the semantic run before it: method keys may be those of fine alone."""
SECRET = ("webhook_config",)  # some write the address itself in place of a file's name, which is refused


@dataclass(frozen=True)
class Line:
    """A key, its value, and what became of it; ``assumed``: SimpleTuner's default, since the file does not set it."""

    key: str
    value: Any
    outcome: Outcome
    assumed: bool = False

    def told(self, overridden: Mapping[str, Any]) -> str:
        became = [
            f"{key} = {_short(value)}{' (set elsewhere)' if key in overridden else ''}"
            for key, value in self.outcome.values.items()
        ]
        what = ", ".join(became) if became else "" if self.outcome.note.startswith("no effect") else "accepted"
        said = f"{what}: {self.outcome.note}" if what and self.outcome.note else what or self.outcome.note
        return f"{self.key} = {_short(self.value)}{' (its default)' if self.assumed else ''} -> {said}"


@dataclass(frozen=True)
class Converted:
    tree: dict[str, Any]
    sources: dict[str, str]
    lines: tuple[Line, ...]
    overridden: Mapping[str, Any]

    @property
    def needs_semantic(self) -> bool:
        """Whether a semantic run comes first."""
        return any(line.outcome.note == COMES_FIRST for line in self.lines)

    def report(self) -> list[str]:
        """One line a key."""
        return [line.told(self.overridden) for line in self.lines]

    def warnings(self) -> list[str]:
        """What a user should read, each reason once with the keys that it is about."""
        by_note: dict[str, list[str]] = {}
        for line in self.lines:
            if line.outcome.warn and (line.outcome.values or not line.assumed):
                by_note.setdefault(line.outcome.note, []).append(f"{line.key} = {_short(line.value)}")
        return [f"{', '.join(keys)}: {note}" for note, keys in by_note.items()]


def semantic_before(path: Path, overridden: Mapping[str, Any]) -> tuple[Converted, dict[str, Any]]:
    """The semantic run that a fine one starts from, and what of ``overridden`` goes for it, too."""
    _, keys = _open(path, _read(path), overridden)
    kept = {key: value for key, value in overridden.items() if not key.startswith(FINE_ALONE)}
    made = convert(path, kept, "semantic")
    steps = keys.get("semantic_steps") or kept.pop("train.steps", None) or made.tree["train"]["steps"]
    made.tree["name"] = f"{kept.pop('name', made.tree['name'])}{BEFORE}"
    made.tree.pop("publish", None)
    made.tree["train"]["steps"] = steps
    kept.pop("train.steps", None)
    return made, kept


def convert(path: Path, overridden: Mapping[str, Any], mode: str | None = None) -> Converted:
    """ConfigError, with key, value and remedy, for what is unknown or refused; ``overridden`` is set elsewhere.
    ``mode`` is DCM's, in place of the file's."""
    given = _read(path)
    file, method_keys = _open(path, given, overridden, mode)
    try:
        data, data_lines = datasets(file)
    except Refused as error:
        raise ConfigError(f"{path}: data_backend_config = {given.get('data_backend_config')!r}: {error}") from None
    file = replace(file, data=data)
    if given.get("num_train_epochs") and not given.get("max_train_steps") and not file.overrides("train.steps"):
        file = replace(file, samples=_samples(data))
    lines = [
        Line(METHOD, given.get(METHOD), Outcome({"method.name": file.method})),
        *_apply(table_of(file.method), method_keys, file, f"{SECTION}."),
        *_apply(KEYS, {key: value for key, value in given.items() if key not in (METHOD, SECTION)}, file),
    ]
    tree: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for line in [Line("", None, Outcome(_base(file))), *lines]:
        for key, value in line.outcome.values.items():
            set_dotted(tree, key, value)
            sources |= dict.fromkeys(flatten({key: value}), f"{path}: {line.key}" if line.key else "import")
    lines += [Line(f"dataset.{key}", value, outcome) for key, value, outcome in data_lines]
    return Converted(tree, sources, tuple(lines), overridden)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of keys, found a {type(content).__name__}")
    given: dict[str, Any] = {}
    for key, value in content.items():
        name = key.removeprefix("--")
        if name in given:
            raise ConfigError(f"{path}: {name} is there twice, with and without --")
        given[name] = value
    return given


def _open(
    path: Path, given: Mapping[str, Any], overridden: Mapping[str, Any], mode: str | None = None
) -> tuple[File, dict[str, Any]]:
    """The file with its method, and the keys of its distillation section."""
    named = given.get(METHOD)
    if named not in METHOD_NAMES:
        raise ConfigError(f"{path}: {METHOD} = {named!r}: known: {', '.join(METHOD_NAMES)}")
    section = given.get(SECTION) or {}
    if isinstance(section, str):
        try:
            section = json.loads(section)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}: {SECTION} = {section!r}: not valid JSON: {error}") from None
    if not isinstance(section, dict):
        raise ConfigError(f"{path}: {SECTION} = {section!r}: expected a section")
    if section and set(section) <= set(METHOD_NAMES):  # the nested spelling, by method
        section = section.get(named, {})
    modes = [name.removeprefix(f"{named}_") for name in METHODS if name.startswith("dcm_") and named == "dcm"]
    section = section | ({"mode": mode} if mode else {})
    mode = section.get("mode", "semantic")
    if modes and mode not in modes:
        raise ConfigError(f"{path}: {SECTION}.mode = {mode!r}: known: {', '.join(modes)}")
    method = overridden.get("method.name", f"{named}_{mode}" if modes else named)
    if method not in METHODS:
        raise ConfigError(f"method.name = {method!r}: {nearest(str(method), METHODS)}")
    keys = {ALIASES.get(key, key): value for key, value in section.items()}
    table = table_of(method)
    assumed = {key: entry.default for key, entry in table.items() if entry.default is not ABSENT}
    return File(path, given, assumed | keys, method, overridden), keys


def _apply(table: Mapping[str, Key], given: Mapping[str, Any], file: File, section: str = "") -> list[Line]:
    lines = []
    for key in [*given, *(key for key in table if key not in given)]:
        if key not in table:
            raise ConfigError(f"{file.path}: {section}{key}: unknown key; {nearest(key, table)}")
        value = given.get(key, table[key].default)
        if value is ABSENT:
            continue
        try:
            outcome = table[key].rule(value, file)
        except Refused as error:
            shown = "***" if key in SECRET and "://" in str(value) else repr(value)
            raise ConfigError(f"{file.path}: {section}{key} = {shown}: {error}") from None
        lines.append(Line(f"{section}{key}", value, outcome, key not in given))
    return lines


def _base(file: File) -> dict[str, Any]:
    """What no key of SimpleTuner's says: how roles are sharded, and whether there are GPUs."""
    gpu = torch.cuda.is_available()
    judge = {"zero": 2, "optimizer": {"learning_rate": 1e-5, "betas": [0.0, 0.999], "weight_decay": 0.0}}
    heads = {f"roles.{role}": judge for role in file.heads}
    zero = {f"roles.{role}.zero": 2 if role in file.trained else 3 for role in file.held}
    shown = file.data.get("data.resolution", 480)
    sides = (
        {} if "data.height" in file.data else dict.fromkeys(("data.height", "data.width"), max(16, shown // 16 * 16))
    )
    return {
        "name": file.name,
        "train.use_gpu": gpu,
        "data.encoder_gpus": 1 if gpu else 0,
        "data.resample": False,
        "evaluate.batch": 1,
        **sides,
        **zero,
        **heads,
        **file.data,
    }


def _samples(data: Mapping[str, Any]) -> int:
    """Samples of an epoch; 0 where the datasets are not known here."""
    if "data.datasets" not in data:
        return 0
    source = Source.model_validate({"frames": 1, "height": 16, "width": 16, "datasets": data["data.datasets"]})
    counts = [0] * len(source.parts)
    for entry in entries(source):
        counts[entry.dataset] += not entry.error
    return round(sum(n * often for n, often in zip(counts, source.passes(counts), strict=True)))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 64 else f"{text[:61]}..."
