"""Read a run's configuration from our YAML, or from another tool's unchanged file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ray_distill.config import ConfigError, Loaded, load_config
from ray_distill.config.load import read_overrides


def load_run(path: Path, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Loaded:
    """Read, override and validate the configuration of a run; a .json file is SimpleTuner's.

    Raises ConfigError with key, value and remedy. ``environment`` defaults to that of the process.
    """
    if path.suffix != ".json":
        return load_config(path, overrides, environment)
    from ray_distill.simpletuner.load import load

    if not path.is_file():
        raise ConfigError(f"{path}: no such configuration file")
    return load(path, read_overrides(overrides, os.environ if environment is None else environment))
