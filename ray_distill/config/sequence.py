"""Check sequence parallelism: ranks that share a clip have equal pieces of its tokens and of every network's heads."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ray_distill.config.schema import RunConfig
from ray_distill.diffusion.causal import chunk_lengths
from ray_distill.errors import ConfigError
from ray_distill.models import family
from ray_distill.models.loading import with_class_defaults
from ray_distill.models.spec import Latent

KEY = "train.sequence_parallel"


def check_heads(config: RunConfig) -> None:
    """ConfigError, with the possible numbers of workers, if these do not divide a transformer's heads. A folder that
    does not exist is taken for the published pipeline of its name."""
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
        pipeline = config.pipeline(role)
        described = with_class_defaults(config.model.family, pipeline.architecture, pipeline.where)
        counts = [int(described[key]) for key in family(config.model.family).head_counts]
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
    height, width = family(config.model.family).patch(config.pipeline("student").architecture)
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
    if values == [1]:
        return f"with {train.workers} workers use 1"
    return f"with {train.workers} workers use one of {', '.join(map(str, values))}, which divide this number"
