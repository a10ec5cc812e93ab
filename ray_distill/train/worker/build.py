"""Build a configuration's engines, and load each role's weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

import torch
from torch import nn

from ray_distill.checkpoint import Checkpoint
from ray_distill.config import RoleConfig, RunConfig
from ray_distill.config.shared_base import base_of
from ray_distill.config.stages import RunStage, stages
from ray_distill.models.exits import add_exits
from ray_distill.models.hashing import weights_hash
from ray_distill.models.heads import head_blocks, random_heads
from ray_distill.models.int8 import quantize
from ray_distill.models.loading import (
    compile_blocks,
    hollow_random,
    hollow_transformer,
    random_transformer,
    use_attention,
)
from ray_distill.models.lora import add_lora
from ray_distill.models.sequence import Ranks, make_ranks, split
from ray_distill.models.shared import on_one_base
from ray_distill.train.schedule import total_updates
from ray_distill.train.worker import zero
from ray_distill.train.worker.engines import DeepSpeedEngines, Engines
from ray_distill.train.worker.step import At, unseen
from ray_distill.types import Average, Role


def build_engines(config: RunConfig, at: At = unseen, stage: RunStage | None = None) -> Engines:
    """Engines of the roles that training holds in ``stage`` (None: the run's first), each with its own weights and
    adapters; it calls ``at`` as it builds each."""
    stage = stage or stages(config)[0]
    ranks = make_ranks(config.train.sequence_parallel, config.train.timeout_s)
    heads = {
        role: head_blocks(role, head, config.model.family, config.pipeline(head.of).transformer)
        for role, head in config.method.heads.items()
    }
    return DeepSpeedEngines(
        modules(config, heads, at, stage, ranks),
        stage.roles,
        config.model.pipeline.of.denoiser,
        total_updates(config),
        config.train.micro_batch,
        heads={role: blocks for role, (blocks, _) in heads.items()},
        averages={role: need for role, need in config.method.roles.items() if isinstance(need, Average)},
        nonfinite_limit=config.train.nonfinite_limit,
        finished=stage.finished,
    )


def start_engines(config: RunConfig, stage: RunStage, last: Checkpoint | None, at: At = unseen) -> Engines:
    """Engines of a stage with the state of the checkpoint ``last``, else with the weights of ``train.init_from`` or of
    their sources."""
    engines = build_engines(config, at, stage)
    at("resume")
    if config.train.init_from is not None and (last is None or last.step == stage.start):
        engines.begin(Checkpoint(config.train.init_from))
    if last is not None:
        engines.load(last)
    return engines


def modules(
    config: RunConfig,
    heads: Mapping[Role, tuple[tuple[int, ...], tuple[int, ...]]],
    at: At,
    stage: RunStage,
    ranks: Ranks | None = None,
) -> Iterable[tuple[Role, nn.Module]]:
    """The roles' networks, each made on request; ``heads`` has (blocks, widths) of roles that are heads. ``ranks``
    share the tokens of each network; heads see all tokens."""
    judges = ((role, random_heads(len(blocks), widths, config.seed)) for role, (blocks, widths) in heads.items())
    if config.model.shared_base:
        return chain(on_their_bases(config, at, stage, ranks), judges)
    return chain(((role, transformer(config, role, at, ranks)) for role in stage.roles if role not in heads), judges)


def on_their_bases(config: RunConfig, at: At, stage: RunStage, ranks: Ranks | None) -> Iterator[tuple[Role, nn.Module]]:
    """Each base of the stage, followed by the adapters on it."""
    for base in dict.fromkeys(map(base_of, stage.roles)):
        adapters = {
            role: lora for role, lora in config.adapters.items() if role in stage.roles and base_of(role) == base
        }
        yield from on_one_base(transformer(config, base, at, ranks), adapters, config.seed, base)


def transformer(config: RunConfig, role: Role, at: At = unseen, ranks: Ranks | None = None) -> nn.Module:
    """The role's network with its weights and its adapters, on the rank's device; under ZeRO-3 in shards."""
    at("load", role)
    section = config.role(role)
    network = load_network(config, section, role)
    of = config.model.pipeline.of
    split(network, ranks, of.exchange_heads)
    if zero.DTYPES[section.dtype] == torch.float32 and not torch.cuda.is_available() and not section.compile:
        of.quicken(network)
    differ = any(config.role(other).attention for other in config.held_roles)
    use_attention(network, section.attention or config.model.attention, always=differ)
    if section.base_precision == "int8":
        quantize(network)
    if section.lora is not None:
        add_lora(network, section.lora, config.seed)
    if count := config.method.exits.get(role):
        add_exits(network, count)
    if section.compile:
        compile_blocks(network)
    return network


def bases(config: RunConfig) -> dict[Role, str]:
    """Hashes of the weights under adapters, since a checkpoint holds only the adapters; and of the weights with
    ``model.loras`` from which other trained roles began."""
    roles = (role for role, need in config.method.roles.items() if need == "trained")
    return {
        role: weights_hash(config.source(role), config.loras(role))
        for role in roles
        if config.role(role).lora or config.loras(role)
    }


def frozen_sources(config: RunConfig) -> dict[Role, str]:
    """Hashes of the weights of roles that are never trained, from which a run learns."""
    frozen = (role for role, need in config.method.roles.items() if need == "frozen")
    return {
        role: weights_hash(config.source(role), config.loras(role))
        for role in frozen
        if config.role(role).init != "random"
    }


def load_network(config: RunConfig, section: RoleConfig, role: Role) -> nn.Module:
    source, dtype = config.source(role), zero.DTYPES[section.dtype]
    if section.init == "random" and section.zero == 3:  # rank 0 alone draws them
        return zero.fill(*hollow_random(config.model.family, source, dtype, config.seed), section)
    if section.init == "random":
        network = random_transformer(config.model.family, source, config.seed)
        for parameter in network.parameters() if section.optimizer is None else ():  # an engine casts trained weights
            parameter.data = parameter.data.to(dtype)
        return network
    network, weights = hollow_transformer(config.model.family, source, dtype, config.loras(role))
    return zero.fill(network, weights, section)
