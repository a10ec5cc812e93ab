"""Convert a SimpleTuner configuration into the values of a RunConfig, with one report line per key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ray_distill.config.keys import ConfigError, flatten, set_dotted
from ray_distill.data.prepare.listing import entries
from ray_distill.data.source import Source
from ray_distill.simpletuner.dataset import datasets
from ray_distill.simpletuner.dcm import BEFORE, COMES_FIRST
from ray_distill.simpletuner.document import hint, is_comment
from ray_distill.simpletuner.keys import KEYS
from ray_distill.simpletuner.method import table_of
from ray_distill.simpletuner.opening import METHOD, SECTION, open_file, read_keys
from ray_distill.simpletuner.outcome import ABSENT, File, Key, Outcome, look_up
from ray_distill.simpletuner.report import Line, quote, warnings
from ray_distill.simpletuner.values import Refused, blank, whole

FINE_ALONE = ("method.", "roles.discriminator", "roles.student.path", "publish")
"""Overrides of a fine run that the semantic run before it does not take; some method keys belong only to fine."""


@dataclass(frozen=True)
class Converted:
    tree: dict[str, Any]
    sources: dict[str, str]
    lines: tuple[Line, ...]
    overridden: Mapping[str, Any]

    @property
    def needs_semantic(self) -> bool:
        """True where a semantic run must come first."""
        return any(line.outcome.note == COMES_FIRST for line in self.lines)

    def report(self) -> list[str]:
        """One line per key."""
        return [line.text(self.overridden) for line in self.lines]

    def warnings(self) -> list[str]:
        """The warnings of the import, each reason once."""
        return warnings(self.lines)


def semantic_before(path: Path, overridden: Mapping[str, Any]) -> tuple[Converted, dict[str, Any]]:
    """(the semantic run from which a fine run starts, the keys of ``overridden`` that apply to it as well)."""
    _, keys = open_file(path, read_keys(path), overridden)
    kept = {key: value for key, value in overridden.items() if not key.startswith(FINE_ALONE)}
    semantic = convert(path, kept, "semantic")
    steps = keys.get("semantic_steps") or kept.pop("train.steps", None) or semantic.tree["train"]["steps"]
    semantic.tree["name"] = f"{kept.pop('name', semantic.tree['name'])}{BEFORE}"
    semantic.tree.pop("publish", None)
    semantic.tree["train"]["steps"] = steps
    kept.pop("train.steps", None)
    return semantic, kept


def convert(path: Path, overridden: Mapping[str, Any], mode: str | None = None) -> Converted:
    """Convert the file; ConfigError, with key, value and remedy, for an unknown or refused key.

    ``overridden`` are the keys that environment and command line set; ``mode`` replaces DCM's mode in the file.
    """
    settings = read_keys(path)
    file, method_keys = open_file(path, settings, overridden, mode)
    try:
        data, data_lines = datasets(file)
    except Refused as error:
        raise ConfigError(f"{path}: data_backend_config = {settings.get('data_backend_config')!r}: {error}") from None
    file = replace(file, data=data)
    if _counts_epochs(file):
        file = replace(file, samples=_samples(data))
    lines = [
        Line(METHOD, settings.get(METHOD), Outcome({"method.name": file.method})),
        *_apply(table_of(file.method), method_keys, file, f"{SECTION}."),
        *_apply(KEYS, {key: value for key, value in settings.items() if key not in (METHOD, SECTION)}, file),
    ]
    tree: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for line in [Line("", None, Outcome(_base(file))), *lines]:
        for key, value in line.outcome.values.items():
            set_dotted(tree, key, value)
            sources |= dict.fromkeys(flatten({key: value}), f"{path}: {line.key}" if line.key else "import")
    return Converted(tree, sources, (*lines, *data_lines), overridden)


def _apply(table: Mapping[str, Key], settings: Mapping[str, Any], file: File, section: str = "") -> list[Line]:
    lines = []
    for key in [*settings, *(key for key in table if key not in settings)]:
        name, entry, value = f"{section}{key}", look_up(table, key), settings.get(key, ABSENT)
        if value is not ABSENT and is_comment(key):
            lines.append(Line(name, value, Outcome(note="a comment")))
            continue
        if blank(value) and not (entry and entry.null):
            lines.append(Line(name, value, Outcome(note="not set: SimpleTuner treats it as an absent key")))
            value = ABSENT
            if entry is None:
                continue
        if entry is None:
            raise ConfigError(f"{file.path}: {name}: unknown key; {hint(key, table)}")
        assumed = value is ABSENT
        value = entry.default if assumed else value
        if value is ABSENT:
            continue
        try:
            lines.append(Line(name, value, entry.rule(value, file), assumed))
        except Refused as error:
            raise ConfigError(f"{file.path}: {name} = {quote(key, value)}: {error}") from None
    return lines


def _base(file: File) -> dict[str, Any]:
    """Settings without a key in SimpleTuner: the roles' sharding, and whether there are GPUs."""
    gpu = torch.cuda.is_available()
    judge = {"zero": 2, "optimizer": {"learning_rate": 1e-5, "betas": [0.0, 0.999], "weight_decay": 0.0}}
    heads = {f"roles.{role}": judge for role in file.heads}
    zero = {f"roles.{role}.zero": 2 if role in file.trained else 3 for role in file.networks}
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


def _counts_epochs(file: File) -> bool:
    """True where the length of the run depends on the number of samples."""
    try:
        return bool(
            file.read("num_train_epochs", whole, 0)
            and not file.read("max_train_steps", whole, 0)
            and not file.overrides("train.steps")
        )
    except Refused as error:
        raise ConfigError(f"{file.path}: {error}") from None


def _samples(data: Mapping[str, Any]) -> int:
    """Number of samples in an epoch; 0 where ``data`` has no datasets."""
    if "data.datasets" not in data:
        return 0
    source = Source.model_validate({"frames": 1, "height": 16, "width": 16, "datasets": data["data.datasets"]})
    counts = [0] * len(source.parts)
    for entry in entries(source):
        counts[entry.dataset] += not entry.error
    return round(sum(n * often for n, often in zip(counts, source.passes(counts), strict=True)))
