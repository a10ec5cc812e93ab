"""Check sequence parallelism on nodes: each holds whole groups of the ranks that share a clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray_distill.config import ConfigError, RunConfig
from ray_distill.config.sequence import KEY


def check_nodes(config: RunConfig, nodes: Sequence[Mapping[str, Any]]) -> str:
    """Warning that neighbours may run on two nodes; "" if each of ``nodes`` (its resources) holds whole groups.

    ConfigError if a run of ``train.min_workers`` might start with a number of workers that is no multiple, since Ray
    starts as many as fit on the nodes."""
    train = config.train
    if train.sequence_parallel == 1:
        return ""
    needs = {"CPU": train.cpus_per_worker} | ({"GPU": 1.0} if train.use_gpu else {})
    room = [int(min(node.get(name, 0.0) // need for name, need in needs.items())) for node in nodes]
    uneven = [count for count in room if count % train.sequence_parallel]
    if not uneven:
        return ""
    what = (
        f"{KEY} = {train.sequence_parallel}: a node has room for {uneven[0]} workers, which is no multiple of it: "
        "workers that share a clip"
    )
    if train.min_workers is not None and train.min_workers < train.workers and sum(room) < train.workers:
        raise ConfigError(
            f"{what} could be split up; remove train.min_workers, or start nodes for multiples of "
            f"{train.sequence_parallel} workers"
        )
    return f"{what} may run on two nodes, and exchange all tokens between these"
