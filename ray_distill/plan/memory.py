"""Bytes of one rank: each role's state under its ZeRO stage, and the moments of peak memory.

As in train/worker/ and DeepSpeed 0.19. The compute weights have the role's dtype; masters, both moments of AdamW and
the average are fp32, and sharded except at stage 0, where all is whole and the weights are the masters. Stages 1 and 2
keep whole weights, stage 3 a piece of each tensor. Gradients: stages 0 and 1 whole in the role's dtype, stage 2 a shard
in ``gradient_dtype``, each from the backward to the step; stage 3 such a shard at all times. If stage 1 adds up bf16
gradients in fp32, it keeps both whole at all times. Offloaded state is in CPU memory, the gradients' fp32 shards with
the optimizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from ray_distill.config import RoleConfig
from ray_distill.plan.network import Parameters
from ray_distill.types import Role

FP32 = 4
BYTES = {"float32": 4, "bfloat16": 2}
# DeepSpeed's defaults, in elements: the buffer that gradients are reduced from, the weights that ZeRO-3 may hold
# gathered, what ZeRO-3 descends at once.
BUCKET, GATHERED, SUBGROUP = 5 * 10**8, 10**9, 10**9
TERMS = ("weights", "gradients", "optimizer", "EMA", "activations", "buffers")


@dataclass(frozen=True)
class State:
    """Bytes of one role on one rank."""

    weights: int
    start: int
    """The weights during loading: under ZeRO-3 shards beside the largest tensor, else whole."""
    gradients: int
    masters: int
    moments: int
    ema: int
    bucket: int
    gathered: int
    """Estimated maximum of gathered weights while the network works under ZeRO-3."""
    descent: int
    """Estimated copies of AdamW and DeepSpeed during a step."""
    lasting: tuple[bool, bool]
    """Whether gradients and bucket stay between updates."""
    host: int = 0
    """Offloaded bytes, in CPU memory."""


def state(section: RoleConfig, parameters: Parameters, ranks: int) -> State:
    """State of a role on one of ``ranks``; ``section`` has its stage, dtype and average, ``parameters`` the elements of
    each tensor."""
    size, zero3 = BYTES[section.dtype], section.zero == 3

    def share(tensors: Sequence[int]) -> int:
        """Elements of a rank's shard: ZeRO-3 cuts each tensor, ZeRO-1 and 2 cut their concatenation."""
        if section.zero == 0:
            return sum(tensors)
        return sum(-(-n // ranks) for n in tensors) if zero3 else -(-sum(tensors) // ranks)

    shard = share(parameters.trainable)
    whole = (sum(parameters.every) - parameters.int8) * size + parameters.int8
    weights = share(parameters.every) * size if zero3 else whole
    both = section.zero == 1 and section.dtype != section.gradient_dtype  # bf16 from each backward, and their fp32 sum
    gradients = sum(parameters.trainable) * (size + (FP32 if both else 0))
    if section.zero > 1:
        gradients = shard * BYTES[section.gradient_dtype]
    masters, moments = (shard if section.zero else 0) * FP32, 2 * shard * FP32
    average = (shard if section.ema_decay is not None else share(parameters.averaged)) * FP32
    on = State(
        weights=weights,
        start=weights + (max(parameters.every) * size if zero3 else 0),
        gradients=gradients,
        masters=masters,
        moments=moments,
        ema=average,
        # DeepSpeed reduces the whole fp32 sum at once, from a copy and its bf16 rounding.
        bucket=sum(parameters.trainable) * (FP32 + size) if both else min(BUCKET, sum(parameters.trainable)) * size,
        gathered=min(sum(parameters.every), GATHERED) * size if zero3 else 0,
        descent=2 * FP32 * (min(shard, SUBGROUP) if zero3 else shard),
        lasting=(zero3 or both, zero3),
    )
    return offloaded(on, section)


def offloaded(on: State, section: RoleConfig) -> State:
    """The state ``on``, with the parts that ``section`` offloads in CPU memory.

    DeepSpeed keeps fp32 gradients beside the masters, except ZeRO-1's whole ones. AdamW descends on the masters'
    device, and the average uses the masters' shards."""
    if section.offload_optimizer:
        moved = ("masters", "moments", "ema", "descent", *(("gradients",) if section.zero > 1 else ()))
        host = sum(getattr(on, name) for name in moved)
        nothing: dict[str, Any] = dict.fromkeys(moved, 0)
        on = replace(on, **nothing, host=on.host + host)
    if section.offload_parameters:
        on = replace(on, host=on.host + on.weights, start=on.start - on.weights, weights=0)
    return on


@dataclass(frozen=True)
class Moment:
    """Live bytes at one point of a run, by role, in the order of ``TERMS``."""

    name: str
    rows: Mapping[Role, tuple[int, ...]]

    @property
    def total(self) -> int:
        return sum(map(sum, self.rows.values()))

    def term(self, name: str) -> int:
        return sum(row[TERMS.index(name)] for row in self.rows.values())


def start(states: Mapping[Role, State]) -> Iterator[Moment]:
    """Moments of the set-up, which loads roles in turn, tensor by tensor; AdamW's moments come with the first step."""
    rows: dict[Role, tuple[int, ...]] = {}
    for role, state in states.items():
        yield Moment(f"setting up {role}", {**rows, role: (state.start, 0, 0, 0, 0, 0)})
        kept = (state.gradients * state.lasting[0], state.bucket * state.lasting[1])
        rows[role] = (state.weights, kept[0], state.masters, 0, 0, kept[1])


def update(
    states: Mapping[Role, State],
    updated: Role,
    at_work: Role,
    activations: Mapping[Role, int],
    lasting: Mapping[Role, int] = MappingProxyType({}),
) -> Iterator[Moment]:
    """Peaks of an update of ``updated``: with ``activations`` alive and ``at_work`` running, and in the descent, with
    the ``lasting`` ones alive."""

    def row(role: Role, state: State, stepping: bool) -> tuple[int, ...]:
        now = role == updated
        buffers = state.bucket if state.lasting[1] or (now and not stepping) else 0
        buffers += state.descent if now and stepping else 0
        buffers += state.gathered if role == at_work and not stepping else 0
        gradients = state.gradients if state.lasting[0] or now else 0
        alive = (lasting if stepping else activations).get(role, 0)
        return state.weights, gradients, state.masters + state.moments, state.ema, alive, buffers

    for stepping, name in ((False, "forward and backward"), (True, "descent")):
        rows = {role: row(role, state, stepping) for role, state in states.items()}
        yield Moment(f"{name} of the {updated} update", rows)
