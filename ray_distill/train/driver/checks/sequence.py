"""Check sequence parallelism: ranks that share a clip have equal pieces of its tokens and of every network's heads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ray_distill.config import ConfigError, RunConfig
from ray_distill.diffusion.causal import chunk_lengths
from ray_distill.models import family
from ray_distill.models.loading import check_folder, empty_transformer
from ray_distill.models.spec import Latent

KEY = "train.sequence_parallel"


def check_heads(config: RunConfig) -> None:
    """ConfigError, with the possible numbers of workers, if these do not divide a transformer's heads."""
    shared = config.train.sequence_parallel
    if shared > 1 and family(config.model.family).exchange_heads is None:
        raise ConfigError(
            f"{KEY} = {shared}: family {config.model.family!r} cannot exchange attention heads between workers; use "
            "1, and ZeRO-3 or offload where memory is short"
        )
    if shared > 1 and config.method.streamed is not None:
        raise ConfigError(
            f"{KEY} = {shared}: with method.rollout_overlap rollouts go on from step to step, and each rank keeps the "
            "caches of its own clips; use 1, or remove method.rollout_overlap"
        )
    for role in config.held_roles if shared > 1 else ():
        if role in config.method.heads:
            continue
        network: Any = empty_transformer(config.model.family, config.source(role))
        counts = [int(network.config[key]) for key in family(config.model.family).head_counts]
        for heads in counts:
            if heads % shared:
                raise ConfigError(
                    f"{KEY} = {shared}: {role} has {heads} attention heads in each layer; "
                    f"{_remedy(math.gcd(*counts), config)}"
                )


def check_tokens(config: RunConfig, shapes: Iterable[Latent]) -> None:
    """ConfigError if the workers do not divide the tokens of some shape (C, t, h, w) of latents, or of a causal
    chunk."""
    shared = config.train.sequence_parallel
    if shared == 1:
        return
    height, width = family(config.model.family).patch(check_folder(config.model.family, config.source("student")))
    chunks = config.method.sampler().chunks
    for _, frames, rows, columns, *_ in shapes:
        each = rows // height * (columns // width)
        lengths = chunk_lengths(frames, chunks) if chunks is not None else (frames,)
        for length in sorted({*lengths, frames}):
            if length * each % shared:
                what = "clips" if length == frames else f"chunks of {length} frames in clips"
                raise ConfigError(
                    f"{KEY} = {shared}: {what} of latents {frames}x{rows}x{columns} have {length * each:,} tokens; "
                    f"{_remedy(length * each, config)}, or other data.frames, height and width"
                )


def _remedy(count: int, config: RunConfig) -> str:
    train = config.train
    values = [n for n in range(1, train.workers + 1) if count % n == train.workers % n == 0]
    return f"with {train.workers} workers use one of {', '.join(map(str, values))}, which divide this number"


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
