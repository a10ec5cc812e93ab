"""Names of videos for caches, lists and logs: addresses without their secrets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ray_distill.data.read.remote import is_remote
from ray_distill.masking import mask

if TYPE_CHECKING:
    from ray_distill.data.prepare.listing import Entry


class Names:
    """Callable: entry -> the entry under a name without secrets; its ``path`` stays as it is.

    A name means one file: of two addresses that differ only in their secrets the second is called ``... (2)``. A file
    keeps its name when its address gets a new signature.
    """

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}  # by hashes of paths: millions of addresses would fill the driver's memory
        self._last: dict[int, int] = {}

    def __call__(self, entry: Entry) -> Entry:
        if not is_remote(entry.video) and not is_remote(entry.error):
            return entry
        name = mask(entry.video)
        if name != entry.video:
            path, key = hash((entry.dataset, entry.video)), hash((entry.dataset, name))
            if path not in self._numbers:
                self._numbers[path] = self._last[key] = self._last.get(key, 0) + 1
            name += f" ({self._numbers[path]})" * (self._numbers[path] > 1)
        return replace(entry, video=name, error=mask(entry.error))
