"""Choose the captions that an evaluation samples; checks choose the same ones before a run."""

from __future__ import annotations

from collections.abc import Sequence


def spread(captions: Sequence[str], count: int) -> list[str]:
    """``count`` of the sorted ``captions``, each before any comes again where their number shares no factor with 7: the
    first ones are not neighbours in the alphabet."""
    return [captions[(7 * i + i // len(captions)) % len(captions)] for i in range(count)]
