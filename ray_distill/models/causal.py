"""Causal calls: refuse them for families without them, and share the rule by which a cache keeps chunks.

The rule `keep` stands in Wan's folder, in a file that exports copy beside their weights. No file above `models/` may
name a family, so the plan imports the rule from here.
"""

from __future__ import annotations

from collections.abc import Sequence

from ray_distill.models.wan.causal import keep
from ray_distill.types import Cache

__all__ = ["check_plain", "keep"]


def check_plain(family: str, chunks: Sequence[int], cache: Cache | None, features: Sequence[int]) -> None:
    """ValueError for a causal call or for features, which only Wan has so far; other families' networks call this."""
    if chunks or cache is not None or features:
        raise ValueError(
            f"model.family = {family!r}: no causal calls and no features; use family wan, or another method"
        )
