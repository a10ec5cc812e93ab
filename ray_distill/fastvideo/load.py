"""Load a FastVideo configuration of DMD or Self-Forcing as a RunConfig, with one report line per key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ray_distill.config import ConfigError, Loaded, RunConfig
from ray_distill.config.keys import flatten, nearest, set_dotted
from ray_distill.config.load import Override, apply, config_of
from ray_distill.fastvideo.file import TARGET, File
from ray_distill.fastvideo.keys import KEYS
from ray_distill.simpletuner.outcome import ABSENT, Outcome
from ray_distill.simpletuner.report import Line, quote, warnings
from ray_distill.simpletuner.values import Refused

SHARED = "training.distributed.sp_size"
NEEDED = (TARGET, "models.student.init_from", "models.teacher.init_from", "models.critic.init_from")
REQUIRED = {
    "training.loop.max_train_steps": "train.steps",
    "training.data.num_height": "data.height",
    "training.data.num_width": "data.width",
    "method.fake_score_learning_rate": "roles.fake_score.optimizer.learning_rate",
}
"""Keys without a default, and what they become."""
DECAY = 0.9999
"""Decay of an average whose section names none."""
SHARING = (
    "training.distributed.sp_size is absent: FastVideo's page says 1, and its loader takes num_gpus; here each GPU has "
    "clips of its own, train.sequence_parallel=1"
)
NO_PROMPT = (
    "FastVideo guides against the model's own negative prompt, which its file does not hold; here data.negative_prompt "
    "is empty unless you give it"
)


def load(path: Path, tree: Mapping[str, Any], changes: Sequence[Override]) -> Loaded:
    """The configuration of ``path``, whose content is ``tree``, with ``changes``; ConfigError names key, value and
    remedy."""
    overridden = {change.key: change.value for change in changes}
    file = File(path, _settings(path, tree), overridden)
    _check_required(file)
    lines = _lines(file)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for line in [Line("", None, Outcome(_base())), *lines]:
        for key, value in line.outcome.values.items():
            set_dotted(values, key, value)
            sources |= dict.fromkeys(flatten({key: value}), f"{path}: {line.key}" if line.key else "import")
    report, notices = [line.text(overridden) for line in lines], warnings(lines)
    if file.workers > 1 and SHARED not in file.settings and not file.overrides("train.sequence_parallel"):
        notices.append(SHARING)
    if not any(key.startswith("data.negative_prompt") for key in overridden):
        notices.append(NO_PROMPT)
    whole = apply(changes, values, sources)
    return Loaded(config_of(RunConfig, whole, sources), sources, whole, report, notices)


def _settings(path: Path, tree: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that are set. ConfigError for an unknown one, and for a file without a role or its method."""
    settings = {key: value for key, value in _walk(tree) if value is not None}
    for key in settings:
        if key not in KEYS:
            raise ConfigError(f"{path}: {key}: unknown key of FastVideo; {nearest(key, KEYS)}")
    if isinstance(average := (tree.get("callbacks") or {}).get("ema"), Mapping) and "decay" not in average:
        settings["callbacks.ema.decay"] = DECAY
    for key in NEEDED:
        if key not in settings:
            raise ConfigError(f"{path}: {key} is missing; give a configuration of DMD2Method or SelfForcingMethod")
    return settings


def _check_required(file: File) -> None:
    """ConfigError for a key without a default, unless the one here that it becomes is set elsewhere."""
    for key, ours in REQUIRED.items():
        if key not in file.settings and not file.overrides(ours):
            raise ConfigError(f"{file.path}: {key} is missing; add it, or give {ours}=...")


def _walk(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(key with dots, value); a mapping that a key of the table has as its value stays whole."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and key not in KEYS:
            yield from _walk(value, f"{key}.")
        elif value != {} or key in KEYS:
            yield key, value


def _lines(file: File) -> list[Line]:
    lines = []
    for key in [*file.settings, *(key for key in KEYS if key not in file.settings)]:
        entry = KEYS[key]
        value = file.settings.get(key, entry.default)
        if value is ABSENT:
            continue
        try:
            line = Line(key, value, entry.rule(key, value, file), key not in file.settings)
        except Refused as error:
            raise ConfigError(f"{file.path}: {key} = {quote(key, value)}: {error}") from None
        if line.outcome.values or not line.assumed:
            lines.append(line)
    return lines


def _base() -> dict[str, Any]:
    """Settings without a key in FastVideo: the roles' sharding, and whether there are GPUs."""
    gpu = torch.cuda.is_available()
    zero = {"roles.student.zero": 2, "roles.fake_score.zero": 2, "roles.teacher.zero": 3}
    return {"train.use_gpu": gpu, "data.encoder_gpus": 1 if gpu else 0, "evaluate.batch": 1, **zero}
