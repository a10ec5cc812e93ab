"""Begin to iterate in a thread, while the caller does other work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import islice
from threading import Thread
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Callable[[], Iterator[Item]]) -> Iterator[Item]:
    """The items of ``items()``. A thread makes the iterator and takes the first item, while the caller does other work;
    its error is raised where the items are taken."""
    start: Future[tuple[list[Item], Iterator[Item]]] = Future()

    def begin() -> None:
        try:
            iterator = items()
            start.set_result((list(islice(iterator, 1)), iterator))
        except BaseException as error:
            start.set_exception(error)

    def taken() -> Iterator[Item]:
        first, others = start.result()
        yield from first
        yield from others

    Thread(target=begin, daemon=True).start()  # an executor's thread would keep a process that fails meanwhile
    return taken()
