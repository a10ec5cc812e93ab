"""Load a SimpleTuner configuration as a RunConfig, and the run that must come before it, if any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ray_distill.config import Loaded, RunConfig
from ray_distill.config.load import Override, apply, config_of
from ray_distill.simpletuner.convert import Converted, convert, semantic_before


def load(path: Path, changes: Sequence[Override]) -> Loaded:
    """The configuration of ``path`` with ``changes``; ConfigError names key, value and remedy."""
    overridden = {change.key: change.value for change in changes}
    converted = convert(path, overridden)
    if not converted.needs_semantic:
        return _loaded(converted, changes)
    before, kept = semantic_before(path, overridden)
    return _loaded(converted, changes, _loaded(before, [change for change in changes if change.key in kept]))


def _loaded(converted: Converted, changes: Sequence[Override], before: Loaded | None = None) -> Loaded:
    sources = dict(converted.sources)
    tree = apply(changes, converted.tree, sources)
    config = config_of(RunConfig, tree, sources)
    return Loaded(config, sources, tree, converted.report(), converted.warnings(), before)
