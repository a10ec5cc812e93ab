"""Find the cheapest change that makes a configuration fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pydantic import ValidationError

from ray_distill.config import RoleConfig, RunConfig
from ray_distill.config.keys import plain
from ray_distill.config.roles import NO_AVERAGE
from ray_distill.diffusion.causal import chunk_lengths
from ray_distill.models import family
from ray_distill.plan.estimate import Estimate, estimate
from ray_distill.plan.network import architecture, latent_shape
from ray_distill.types import Average, Role, Start


@dataclass(frozen=True)
class Change:
    """A change of a configuration; ``keys`` are its command-line overrides."""

    keys: tuple[str, ...]
    estimate: Estimate


def cheapest(config: RunConfig, fits: Callable[[Estimate], bool]) -> Change | None:
    """The first change that fits alone, else the shortest sequence of changes that fits, without those of its changes
    that it fits without as well, else None."""
    for keys, changed in changes(config):
        if fits(result := estimate(changed)):
            return Change(keys, result)
    names: list[str] = []
    total = config
    for name in ORDER:
        names.append(name)
        for count, (_, changed) in enumerate(ORDER[name](total), 1):
            total = changed
            if fits(estimate(total)):
                return _without_idle(config, names, count, fits)
    return None


def _without_idle(config: RunConfig, names: list[str], count: int, fits: Callable[[Estimate], bool]) -> Change:
    """The changes of ``names``, of the last one ``count``, which fit together, less each that the rest fits without."""
    change = _together(config, names, count)
    for name in names[:-1]:
        fewer = [other for other in names if other != name]
        if (shorter := _together(config, fewer, count)).keys != change.keys and fits(shorter.estimate):
            names, change = fewer, shorter
    return change


def _together(config: RunConfig, names: list[str], count: int) -> Change:
    """All changes of ``names`` one after the other, of the last name the first ``count``."""
    together: dict[str, str] = {}
    for name in names:
        for keys, changed in islice(ORDER[name](config), count if name == names[-1] else None):
            together |= dict(key.split("=") for key in keys)
            config = changed
    return Change(tuple(f"{key}={value}" for key, value in together.items()), estimate(config))


Changes = Iterator[tuple[tuple[str, ...], RunConfig]]


def changes(config: RunConfig) -> Changes:
    """Changes of a configuration, from those that cost only time to those that cost machines."""
    for name in ORDER:
        yield from ORDER[name](config)


def of_roles(config: RunConfig, key: str, value: Any, applies: Callable[[Role, RoleConfig], Any]) -> Changes:
    """Change ``key`` of every role for which ``applies`` is true; an average has no section."""
    own = [role for role, need in config.method.roles.items() if not isinstance(need, Average | Start)]
    roles = [role for role in own if applies(role, config.role(role))]
    if roles:
        tree = config.dump(secrets=True)
        for role in roles:
            tree["roles"][role] = config.role(role).model_copy(update={key: value}).model_dump(mode="json")
        with suppress(ValidationError):  # not if roles must agree with one that cannot change
            yield tuple(f"roles.{role}.{key}={plain(value)}" for role in roles), RunConfig.model_validate(tree)


def of_train(config: RunConfig, key: str, value: int) -> tuple[tuple[str, ...], RunConfig]:
    tree = config.dump(secrets=True)
    tree["train"][key] = value
    return (f"train.{key}={value}",), RunConfig.model_validate(tree)


def micro_batches(config: RunConfig) -> Changes:
    now = config.train.micro_batch
    yield from (of_train(config, "micro_batch", n) for n in range(now - 1, 0, -1) if now % n == 0)


def sequence_parallel(config: RunConfig) -> Changes:
    """Share each clip among more workers, at the price of communication. Their number must divide the heads and the
    tokens of every network, and of a causal chunk; rollouts that go on from step to step cannot be shared."""
    if family(config.model.family).exchange_heads is None or config.method.streamed is not None:
        return
    train, counts = config.train, [config.train.workers, config.train.min_workers or config.train.workers]
    for role in config.held_roles:
        described = architecture(config, role)
        counts += [int(described[key]) for key in family(config.model.family).head_counts]
    height, width = family(config.model.family).patch(described)
    _, frames, rows, columns, *_ = latent_shape(config)
    chunks = config.method.sampler().chunks
    lengths = {frames} if chunks is None else {frames, *chunk_lengths(frames, chunks)}
    counts += [length * (rows // height) * (columns // width) for length in lengths]
    for n in range(2 * train.sequence_parallel, train.workers + 1, train.sequence_parallel):
        if not any(count % n for count in counts):
            yield of_train(config, "sequence_parallel", n)


def workers(config: RunConfig) -> Changes:
    train = config.train
    shared, most = train.sequence_parallel, train.global_batch // train.micro_batch
    yield from (
        of_train(config, "workers", shared * n) for n in range(train.workers // shared + 1, most + 1) if most % n == 0
    )


def without_average(config: RunConfig) -> Changes:
    """Keep no averages, nor the settings that only an average has."""
    tree, keys = config.dump(secrets=True), []
    for role in config.roles:
        section = config.role(role)
        for key, value in NO_AVERAGE.items() if section.ema_decay is not None else ():
            if getattr(section, key) != value:
                tree["roles"][role][key] = value
                keys.append(f"roles.{role}.{key}={plain(value)}")
    if keys:
        yield tuple(keys), RunConfig.model_validate(tree)


def checkpointing(config: RunConfig) -> Changes:
    """Recompute all transformers that gradients pass: trained ones, and those under heads."""
    heads = config.method.heads
    passed = {head.of for head in heads.values()} | {r for r in config.method.roles if config.role(r).optimizer}
    return of_roles(
        config,
        "gradient_checkpointing",
        True,
        lambda role, section: role in passed - heads.keys() and not section.gradient_checkpointing,
    )


def zero3(config: RunConfig) -> Changes:
    """Shard the roles' weights (ZeRO-3). The base decides for roles on it; int8 weights cannot be sharded."""
    on_it = set(config.adapters) if config.model.shared_base else set()
    return of_roles(
        config,
        "zero",
        3,
        lambda role, section: (
            section.zero < 3 and role not in on_it and section.base_precision == "dtype" and not section.compile
        ),
    )


def shared_base(config: RunConfig) -> Changes:
    """One network for roles that are adapters on the same weights."""
    tree = config.dump(secrets=True)
    tree["model"]["shared_base"] = True
    keys = ["model.shared_base=true"]
    for role in config.roles:
        if config.role(role).lora and config.role(role).zero == 3:
            tree["roles"][role]["zero"] = 2
            keys.append(f"roles.{role}.zero=2")
    with suppress(ValidationError):  # not if a role has its own weights
        if not config.model.shared_base:
            yield tuple(keys), RunConfig.model_validate(tree)


ORDER: dict[str, Callable[[RunConfig], Changes]] = {
    "checkpointing": checkpointing,
    "micro_batch": micro_batches,
    "zero": zero3,
    "sequence_parallel": sequence_parallel,
    "bfloat16": lambda config: of_roles(
        config,
        "dtype",
        "bfloat16",
        lambda role, section: section.dtype != "bfloat16" and (section.zero or not section.optimizer),
    ),
    "ema": without_average,
    "shared_base": shared_base,
    "offload": lambda config: of_roles(
        config,
        "offload_optimizer",
        True,
        lambda role, section: section.optimizer and section.zero and not section.offload_optimizer,
    ),
    "workers": workers,
}
