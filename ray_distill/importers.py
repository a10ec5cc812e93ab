"""Read a run's configuration from our YAML, or from another tool's unchanged file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_distill.config import ConfigError, Loaded, load_config
from ray_distill.config.load import read_overrides, read_yaml

SIGNS = {"simpletuner": "ends in .json", "fastvideo": "is YAML with models and method._target_"}


def load_run(path: Path, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Loaded:
    """Read, override and validate the configuration of a run; a .json file is SimpleTuner's, and a YAML file with
    FastVideo's sections is FastVideo's.

    Raises ConfigError with key, value and remedy. ``environment`` defaults to that of the process.
    """
    if path.suffix != ".json":
        return _yaml(path, overrides, os.environ if environment is None else environment)
    from ray_distill.simpletuner.load import load

    if not path.is_file():
        raise ConfigError(f"{path}: no such configuration file")
    return load(path, read_overrides(overrides, os.environ if environment is None else environment))


def check_tool(tool: str, path: Path) -> None:
    """ConfigError unless ``load_run`` reads ``path`` as a file of ``tool``."""
    own = "simpletuner"
    if path.suffix != ".json":
        own = "fastvideo" if _is_fastvideo(read_yaml(path)[0]) else ""
    if own != tool:
        remedy = f"ray-distill import {own} reads it" if own else "a configuration of ours needs no import"
        raise ConfigError(f"{path}: no file of {tool}, which {SIGNS[tool]}; {remedy}")


def _yaml(path: Path, overrides: Sequence[str], environment: Mapping[str, str]) -> Loaded:
    if path.is_file():
        tree, _ = read_yaml(path)
        if _is_fastvideo(tree):
            from ray_distill.fastvideo.load import load

            return load(path, tree, read_overrides(overrides, environment))
    return load_config(path, overrides, environment)


def _is_fastvideo(tree: Mapping[str, Any]) -> bool:
    """True for the content of a YAML file of FastVideo's trainer: it has sections that ours lacks."""
    section = tree.get("method")
    return "models" in tree and "model" not in tree and isinstance(section, Mapping) and "_target_" in section
