"""Causal calls of networks: the refusal of families without them, and the rule of a cache, which chunks it keeps.

Wan has the one copy of the rule, in a file that exports carry beside their weights; no file above `models/` may name a
family, so that the plan imports it from here.
"""

from __future__ import annotations

from collections.abc import Sequence

from ray_distill.models.wan.causal import keep
from ray_distill.types import Cache

__all__ = ["check_plain", "keep"]


def check_plain(family: str, chunks: Sequence[int], cache: Cache | None, features: Sequence[int]) -> None:
    """ValueError for a causal call and for features, which Wan alone has so far; other families' networks call this."""
    if chunks or cache is not None or features:
        raise ValueError(
            f"model.family = {family!r}: no causal calls and no features; use family wan, or another method"
        )
