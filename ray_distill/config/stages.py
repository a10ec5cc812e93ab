"""Stages of a run: the roles that training holds from one step to another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ray_distill.config.roles import RoleConfig
from ray_distill.config.schema import RunConfig
from ray_distill.config.shared_base import base_of
from ray_distill.types import Method, Role, Stage, Update


@dataclass(frozen=True)
class RunStage:
    """``roles`` are held from the step ``start`` to the step ``stop``, before which the next stage begins.

    ``finished`` are the roles that an earlier stage has trained: by role, the kind of a checkpoint's tensors, weights
    or ema, that they stand still with."""

    start: int
    stop: int
    roles: Mapping[Role, RoleConfig]
    finished: Mapping[Role, str]


def stages(config: RunConfig) -> tuple[RunStage, ...]:
    """The stages of a run, one after the other up to its last step; most methods have one."""
    method_stages = config.method.stages or (Stage(0, config.held_roles),)
    stops = [*(stage.start for stage in method_stages[1:]), config.train.steps]
    return tuple(
        RunStage(
            stage.start,
            min(stop, config.train.steps),
            {role: _section(config, role, role in stage.finished) for role in _with_bases(config, stage.roles)},
            {role: config.sampled_tensors(role) for role in stage.finished},
        )
        for stage, stop in zip(method_stages, stops, strict=True)
        if stage.start < config.train.steps
    )


def stage_at(config: RunConfig, step: int) -> RunStage:
    """The stage of the step number ``step``; of a run that has ended, its last."""
    return [stage for stage in stages(config) if stage.start <= step or not stage.start][-1]


def _with_bases(config: RunConfig, roles: tuple[Role, ...]) -> tuple[Role, ...]:
    """``roles`` in the method's order, with the networks that adapters on a shared base stand on."""
    names = {*roles, *((base_of(role) for role in roles) if config.model.shared_base else ())}
    return tuple(role for role in config.held_roles if role in names)


def _section(config: RunConfig, role: Role, finished: bool) -> RoleConfig:
    return config.role(role).frozen if finished else config.role(role)


def distinct(method: Method, steps: int) -> Iterator[tuple[int, tuple[Update, ...]]]:
    """Pairs of (times, updates) in ``steps`` steps; one period of each part is looked at, however long the run is."""
    first, length = method.period
    first = min(first, steps)
    for start, count in ((0, first), (first, steps - first)):
        periods, rest = divmod(count, length)
        for i in range(min(length, count)):
            yield periods + (i < rest), method.updates(start + i)
