"""Begin to iterate in a thread, while the caller does other work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

from ray_distill.aside import aside

Item = TypeVar("Item")


def ahead(items: Callable[[], Iterator[Item]]) -> Iterator[Item]:
    """The items of ``items()``. A thread makes the iterator and takes the first item, while the caller does other work;
    its error is raised where the items are taken."""

    def begin() -> tuple[list[Item], Iterator[Item]]:
        iterator = items()
        return list(islice(iterator, 1)), iterator

    start = aside(begin)

    def taken() -> Iterator[Item]:
        first, others = start.result()
        yield from first
        yield from others

    return taken()
