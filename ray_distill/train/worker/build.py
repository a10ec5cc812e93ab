"""Build a configuration's engines: load each role's weights and put them in place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

from torch import nn

from ray_distill.config import RoleConfig, RunConfig
from ray_distill.models.hashing import weights_hash
from ray_distill.models.heads import placed, random_heads
from ray_distill.models.int8 import quantize
from ray_distill.models.loading import (
    compile_blocks,
    hollow_transformer,
    random_transformer,
    use_attention,
)
from ray_distill.models.lora import add_lora
from ray_distill.models.shared import on_one_base
from ray_distill.train.schedule import total_updates
from ray_distill.train.worker import zero
from ray_distill.train.worker.engines import DeepSpeedEngines, Engines
from ray_distill.train.worker.step import At, unseen
from ray_distill.types import TEACHER, Average, Role


def build_engines(config: RunConfig, at: At = unseen) -> Engines:
    """One engine per role that training holds, each with its own weights and adapters; ``at`` learns which is made."""
    heads = {
        role: placed(role, given, config.model.family, config.pipeline(given.of).transformer)
        for role, given in config.method.heads.items()
    }
    return DeepSpeedEngines(
        modules(config, heads, at),
        {role: config.role(role) for role in config.held_roles},
        config.model.pipeline.of.denoiser,
        total_updates(config),
        config.train.micro_batch,
        heads={role: blocks for role, (blocks, _) in heads.items()},
        averages={role: need for role, need in config.method.roles.items() if isinstance(need, Average)},
        nonfinite_limit=config.train.nonfinite_limit,
    )


def modules(
    config: RunConfig, heads: Mapping[Role, tuple[tuple[int, ...], int]], at: At = unseen
) -> Iterable[tuple[Role, nn.Module]]:
    """The roles' networks, each made when it is asked for; ``heads``: (blocks, their width) of roles that are heads."""
    judges = ((role, random_heads(len(blocks), width, config.seed)) for role, (blocks, width) in heads.items())
    if config.model.shared_base:
        return chain(on_one_base(transformer(config, TEACHER, at), config.adapters, config.seed), judges)
    return chain(((role, transformer(config, role, at)) for role in config.held_roles if role not in heads), judges)


def transformer(config: RunConfig, role: Role, at: At = unseen) -> nn.Module:
    """The role's network with its weights and its adapters, on the rank's device; under ZeRO-3 in shards."""
    at("load", (role,))
    held = config.role(role)
    network = loaded(config, held, role)
    differ = any(config.role(other).attention for other in config.held_roles)
    use_attention(network, held.attention or config.model.attention, always=differ)
    if held.base_precision == "int8":
        quantize(network)
    if held.lora is not None:
        add_lora(network, held.lora, config.seed)
    if held.compile:
        compile_blocks(network)
    return network


def bases(config: RunConfig) -> dict[Role, str]:
    """Hashes of the weights that adapters stand on: a checkpoint holds the adapters alone."""
    return {role: weights_hash(config.source(role)) for role in config.held_roles if config.role(role).lora}


def frozen_sources(config: RunConfig) -> dict[Role, str]:
    """Hashes of the weights of roles that are never trained: what a run has learned from."""
    frozen = (role for role, need in config.method.roles.items() if need == "frozen")
    return {role: weights_hash(config.source(role)) for role in frozen if config.role(role).init != "random"}


def loaded(config: RunConfig, held: RoleConfig, role: Role) -> nn.Module:
    source, dtype = config.source(role), zero.DTYPES[held.dtype]
    if held.init == "random":
        network = random_transformer(config.model.family, source, config.seed)
        for parameter in network.parameters() if held.optimizer is None else ():  # an engine casts what is trained
            parameter.data = parameter.data.to(dtype)
        return network
    network, weights = hollow_transformer(config.model.family, source, dtype)
    return zero.fill(network, weights, held)
