"""Actors that sample with a GPU each, and keep their networks: Ray ends the process of a GPU task with the task.

A task per sampler would load its networks each time; an actor loads them when they change. Actors give their GPUs back
when the evaluation ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

GRACE_S = 30.0
"""Seconds for which further actors are awaited after the first has its GPU; the work is then divided among those that
have one."""
RESTARTS = 3
"""Times that an actor starts anew, and repeats its call, after its process or node was lost."""


class Worker:
    """The actor: it runs any call, so that what a call loads in its process stays for the next."""

    def ready(self) -> None:
        """Return once the actor has its GPU."""

    def run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return call(*arguments)


class Workers:
    """Actors that are ready. Each call goes to the actor with the least work so far, by the calls' costs."""

    def __init__(self, actors: list[Any]) -> None:
        self._actors, self._loads = actors, [0.0] * len(actors)

    def submit(self, cost: float, call: Callable[..., Any], *arguments: Any) -> Any:
        """Start ``call``, and return the reference of its result. Actors fetch arguments that are references."""
        least = self._loads.index(min(self._loads))
        self._loads[least] += cost
        return self._actors[least].run.remote(call, *arguments)


@contextmanager
def gpu_workers(most: int, timeout_s: float) -> Iterator[Workers]:
    """Actors on the cluster's free GPUs, at most ``most``, which end with the block; GetTimeoutError if no GPU is free
    within ``timeout_s``."""
    count = max(1, min(most, int(ray.cluster_resources().get("GPU", 0))))
    options: Any = {"num_cpus": 1, "num_gpus": 1, "max_restarts": RESTARTS, "max_task_retries": RESTARTS}
    # Without "DEFAULT" a trial's actors would have to fit into its driver's placement group.
    make: Any = ray.remote(scheduling_strategy="DEFAULT", **options)(Worker)
    actors = [make.remote() for _ in range(count)]
    try:
        asked = [actor.ready.remote() for actor in actors]
        first, _ = ray.wait(asked, timeout=timeout_s)
        ray.get(first or asked[0], timeout=0 if not first else timeout_s)
        have, _ = ray.wait(asked, num_returns=count, timeout=GRACE_S)
        yield Workers([actor for actor, answer in zip(actors, asked, strict=True) if answer in have])
    finally:
        for actor in actors:
            ray.kill(actor)
