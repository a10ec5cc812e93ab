"""Choose the captions that an evaluation samples; checks before a run choose the same."""

from __future__ import annotations

from collections.abc import Sequence


def spread(captions: Sequence[str], count: int) -> list[str]:
    """``count`` of the sorted ``captions``, chosen so that the first are not alphabetical neighbours. If 7 does not
    divide their number, none repeats before all have come."""
    return [captions[(7 * i + i // len(captions)) % len(captions)] for i in range(count)]
