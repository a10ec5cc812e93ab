"""Estimate one configuration on a number of GPUs: peak memory and FLOPs of a step."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from typing import Literal, get_args

from ray_distill.config import RunConfig
from ray_distill.config.shared_base import base_of
from ray_distill.config.stages import stages
from ray_distill.models.spec import Latent
from ray_distill.plan import memory
from ray_distill.plan.forwards import Call, Causal, Cycle, Kind, Path, cycle
from ray_distill.plan.memory import Moment, State
from ray_distill.plan.network import Parameters, architecture, latent_shape, parameters
from ray_distill.plan.passes import Pass, Workload, count
from ray_distill.types import Role

By = Literal["call", "update"]


@dataclass(frozen=True)
class Estimate:
    """Estimate of a run.

    ``flops`` are the expected FLOPs of one GPU in one step, by the role that computes, ``update_flops`` the same by the
    role that is updated; ``sent`` are the expected bytes that it sends for sequence parallelism. ``checkpoint`` is the
    size of the largest checkpoint in bytes: weights, two moments and the averages of trained roles in fp32, by role in
    ``checkpoints``, and streamed rollouts. In a run of several stages ``states`` belong to the stage with the ``peak``;
    ``parameters`` cover all roles, those of that stage as it trains them. ``update_peaks`` are the most bytes in an
    update of each trained role."""

    config: RunConfig
    latent: Latent
    parameters: Mapping[Role, Parameters]
    states: Mapping[Role, State]
    cycle: Cycle
    peak: Moment
    flops: Mapping[Role, float]
    checkpoint: int
    sent: Mapping[Role, float]
    update_flops: Mapping[Role, float]
    checkpoints: Mapping[Role, int]
    update_peaks: Mapping[Role, int]

    @property
    def host(self) -> int:
        """Bytes of CPU memory that one worker needs for offloaded state."""
        return sum(state.host for state in self.states.values())


def estimate(config: RunConfig, latent: Latent | None = None) -> Estimate:
    """Estimate a run on clips of ``latent`` (C, t, h, w), by default the configuration's own.

    ValueError if the network or the size of its clips is unknown or wrong.
    """
    counted = Counted(config, latent)
    sizes = {role: parameters(config, role) for role in config.held_roles}
    repeated = cycle(config.method, config.train.steps, counted.latent[1])
    carried, accumulated = counted.carried(repeated), config.train.accumulation
    others, every = ({role: n * size for role, size in carried.items()} for n in (accumulated - 1, accumulated))
    update_peaks: dict[Role, int] = {}
    peaks: list[tuple[Moment, Mapping[Role, Parameters], Mapping[Role, State]]] = []
    for stage in stages(config):
        now = {role: still(sizes[role]) if role in stage.finished else sizes[role] for role in stage.roles}
        states = {role: memory.state(stage.roles[role], now[role], config.train.workers) for role in now}
        if config.model.shared_base:  # a call of any role gathers its base
            states |= {
                r: replace(states[r], gathered=states[base_of(r)].gathered) for r in config.adapters.keys() & now
            }
        moments = list(memory.start(states))
        for kind in repeated.kinds:
            if kind.role in now and now[kind.role].trainable:
                at_work, alive = counted.activations(kind)
                own = list(memory.update(states, kind.role, at_work, add(alive, others), every))
                largest_own = max(moment.total for moment in own)
                update_peaks[kind.role] = max(update_peaks.get(kind.role, 0), largest_own)
                moments += own
        peaks.append((max(moments, key=lambda moment: moment.total), now, states))
    peak, shown, states_then = max(peaks, key=lambda entry: entry[0].total)
    flops, updated = (
        {role: counted.mean(repeated, role, lambda done: done.flops + done.backward_flops, by) for role in sizes}
        for by in get_args(By)
    )
    sent = {role: counted.mean(repeated, role, lambda done: done.sent) for role in sizes}
    by_role = checkpoint_sizes(config, sizes)
    largest = sum(by_role.values())
    if config.method.streamed == "saved":
        largest += config.train.workers * sum(every.values())
    return Estimate(
        config=config,
        latent=counted.latent,
        parameters={**sizes, **shown},
        states=states_then,
        cycle=repeated,
        peak=peak,
        flops=flops,
        checkpoint=largest,
        sent=sent,
        update_flops=updated,
        checkpoints=by_role,
        update_peaks=update_peaks,
    )


def still(parameters: Parameters) -> Parameters:
    """Parameters of a role whose training has ended."""
    return replace(parameters, trainable=())


def checkpoint_bytes(config: RunConfig) -> int:
    """Bytes of a run's largest checkpoint, without streamed rollouts; ValueError for an unknown network."""
    sizes = {role: parameters(config, role) for role in config.held_roles}
    return sum(checkpoint_sizes(config, sizes).values())


def checkpoint_sizes(config: RunConfig, sizes: Mapping[Role, Parameters]) -> dict[Role, int]:
    """Bytes by role of a run's largest checkpoint, which holds no moments of finished roles."""

    def of(role: Role, finished: bool) -> int:
        copies = (1 if finished else 3) + (config.role(role).ema_decay is not None)
        return memory.FP32 * (copies * sum(sizes[role].trainable) + sum(sizes[role].averaged))

    every = [{role: of(role, role in stage.finished) for role in stage.roles} for stage in stages(config)]
    return max(every, key=lambda sizes: sum(sizes.values()))


def add(some: Mapping[Role, int], more: Mapping[Role, int]) -> dict[Role, int]:
    """Sum of two mappings of bytes by role."""
    return {role: some.get(role, 0) + more.get(role, 0) for role in {**some, **more}}


def steady(call: Call) -> Call:
    """``call`` at the first place where a full window sees as much: positions within a window are relative, so later
    chunks of a long rollout cost the same."""
    sight = call.causal
    if sight is None or sight.window is None or sight.past is None or sight.before <= sight.window.frames:
        return call
    further, sink = sight.before - sight.window.frames, sight.window.sink
    past = tuple((a, b) if a < sink else (a - further, b - further) for a, b in sight.past)
    return replace(call, causal=replace(sight, before=sight.window.frames, past=past))


class Counted:
    """Passes of a configuration's networks, each counted once."""

    def __init__(self, config: RunConfig, latent: Latent | None = None) -> None:
        self.config, self.latent = config, latent or latent_shape(config)
        self.fields = tuple(config.model.encoders.fields.items())
        self.architectures = {role: architecture(config, role) for role in config.held_roles}

    def one(self, call: Call) -> Pass:
        sight = call.causal
        last = self.latent[1] // sight.frames * sight.frames - sight.frames if sight else 0
        if sight and sight.past and not sight.window and sight.frames < sight.before < last:
            return self.between(call)
        call, train = steady(call), self.config.train
        return count(self._workload(call, call.rows * train.micro_batch, train.sequence_parallel))

    def sampled(self, call: Call, videos: int) -> Pass:
        """Count a call on whole clips of ``videos``, whose tokens no ranks share."""
        return count(self._workload(call, call.rows * videos, 1))

    def _workload(self, call: Call, rows: int, ranks: int) -> Workload:
        config, section, described = self.config, self.config.role(call.role), self.architectures[call.role]
        checkpointing = section.gradient_checkpointing and call.grad  # only where autograd is on
        channels, frames, *rest = self.latent
        return Workload(
            config.model.family,
            json.dumps(described),
            section.dtype,
            checkpointing,
            rows,
            (channels, call.frames or frames, *rest),
            self.fields,
            call.grad,
            call.trained,
            call.causal,
            ranks,
        )

    def between(self, call: Call) -> Pass:
        """Estimate a cached call without a window linearly in its visible frames, between the first and the last
        chunk's. Peak memory is convex in their number, so this is an upper bound."""
        assert call.causal is not None
        frames, before = call.causal.frames, call.causal.before
        last = self.latent[1] // frames * frames - frames
        first, end = (
            self.one(replace(call, causal=replace(call.causal, before=n, past=((0, n),)))) for n in (frames, last)
        )
        part = (before - frames) / (last - frames)
        return Pass(*(round(a + part * (b - a)) for a, b in zip(astuple(first), astuple(end), strict=True)))

    def cache(self, call: Call, graph: Iterable[tuple[int, int]]) -> int:
        """Bytes of the keys and values after a remembered call: of the chunks in its window, and of those that a
        ``graph`` keeps for its backward."""
        assert call.causal is not None and call.causal.past is not None
        frames = sum(end - start for start, end in {*call.causal.past, *graph})
        # A narrow window drops the chunk at once, so its bytes are counted without a window.
        alone = replace(call, causal=Causal(call.causal.frames, past=(), remember=True))
        return self.one(alone).saved * (frames + call.causal.frames) // call.causal.frames

    def start_cache(self, path: Path) -> dict[Role, int]:
        """Bytes by role of the cache with which a path continues one micro-batch's rollout; its first call remembers
        the last chunk."""
        first = path.calls[0] if path.calls else None
        if first is None or first.causal is None or not first.causal.remember:
            return {}
        own = replace(first, causal=replace(first.causal, past=()))
        return {first.role: self.cache(first, ()) - self.cache(own, ())}

    def carried(self, repeated: Cycle) -> dict[Role, int]:
        """Largest bytes by role of the cache of one micro-batch's streamed rollout between steps."""
        every = [self.start_cache(path) for kind in repeated.kinds for path in kind.paths]
        return {role: max(sizes.get(role, 0) for sizes in every) for sizes in every for role in sizes}

    def activations(self, kind: Kind) -> tuple[Role, Mapping[Role, int]]:
        """The role at work and the bytes by role at the moment of an update's largest activations, over all outcomes of
        its draws."""
        most: tuple[Role, dict[Role, int]] = (kind.role, {})
        for path in kind.paths:
            alive: dict[Role, int] = {}
            points = []
            graph = {call.role: set[tuple[int, int]]() for call in path.calls if call.grad and call.causal}
            cached = self.start_cache(path)
            lasting = {call.role for call in path.calls if call.causal and call.causal.past is not None}
            lasting = lasting if self.config.method.streamed else set()
            for call in path.calls:
                done = self.one(call)
                cached = {role: size for role, size in cached.items() if role in (call.role, *graph, *lasting)}
                now = add(alive, cached)
                points.append((call.role, now | {call.role: now.get(call.role, 0) + done.forward}))
                if call.causal and call.causal.remember:
                    cached[call.role] = self.cache(call, graph.get(call.role, ()))
                elif call.causal and call.grad:
                    graph[call.role].update(call.causal.past or ())
                if call.grad:
                    alive[call.role] = alive.get(call.role, 0) + done.saved
            alive = add(alive, {role: size for role, size in cached.items() if role in graph or role in lasting})
            for call in reversed([call for call in path.calls if call.grad]):
                done = self.one(call)
                alive[call.role] -= done.saved
                points.append((call.role, alive | {call.role: alive[call.role] + done.backward}))
            most = max([most, *points], key=lambda point: sum(point[1].values()))
        return most

    def mean(self, repeated: Cycle, role: Role, of: Callable[[Pass], int], by: By = "call") -> float:
        """Sum of ``of`` on one GPU over the calls of ``role``, or over all calls of its updates, as a mean over the
        steps of a cycle."""
        total = 0.0
        for kind in repeated.kinds:
            for path in kind.paths:
                for call in path.calls:
                    if role == (call.role if by == "call" else kind.role):
                        total += kind.times * float(path.weight) * of(self.one(call))
        return total * self.config.train.accumulation / repeated.steps
