"""Stages of a run: the roles that training holds between two steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ray_distill.config.roles import RoleConfig
from ray_distill.config.schema import RunConfig
from ray_distill.config.shared_base import base_of
from ray_distill.types import Method, Role, Stage, Update


@dataclass(frozen=True)
class RunStage:
    """A stage of a run: training holds ``roles`` from the step ``start`` up to ``stop``, where the next stage begins.

    ``finished`` maps roles of earlier stages to the kind of a checkpoint's tensors, weights or ema, with which they
    stay frozen."""

    start: int
    stop: int
    roles: Mapping[Role, RoleConfig]
    finished: Mapping[Role, str]


def stages(config: RunConfig) -> tuple[RunStage, ...]:
    """Stages of a run in order, up to its last step; most methods have one."""
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
    """The stage of the step ``step``; the last stage if the run has ended."""
    return [stage for stage in stages(config) if stage.start <= step or not stage.start][-1]


def _with_bases(config: RunConfig, roles: tuple[Role, ...]) -> tuple[Role, ...]:
    """``roles`` in the method's order, with the bases of adapters on a shared base."""
    names = {*roles, *((base_of(role) for role in roles) if config.model.shared_base else ())}
    return tuple(role for role in config.held_roles if role in names)


def _section(config: RunConfig, role: Role, finished: bool) -> RoleConfig:
    return config.role(role).frozen if finished else config.role(role)


def distinct(method: Method, steps: int) -> Iterator[tuple[int, tuple[Update, ...]]]:
    """Pairs (times, updates) that make up ``steps`` steps, from one period of each part, without walking the whole
    run."""
    first, length = method.period
    first = min(first, steps)
    for start, count in ((0, first), (first, steps - first)):
        periods, rest = divmod(count, length)
        for i in range(min(length, count)):
            yield periods + (i < rest), method.updates(start + i)
