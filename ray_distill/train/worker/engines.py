"""DeepSpeedEngines: one engine per role, each with its own ZeRO stage, dtype, optimizer and EMA."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from types import MappingProxyType
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ray_distill.checkpoint import Checkpoint
from ray_distill.checkpoint.retention import SKIPPING
from ray_distill.config.roles import RoleConfig
from ray_distill.models.heads import FeatureDiscriminator
from ray_distill.models.lora import plain
from ray_distill.train.schedule import learning_rate
from ray_distill.train.worker import zero
from ray_distill.train.worker.average import AverageRole
from ray_distill.train.worker.ema import ShardedEMA
from ray_distill.train.worker.zero import DTYPES
from ray_distill.types import Average, Denoiser, Networks, Role

NO_GRADIENT_LIMIT = 10  # updates in a row; fewer are honest: a DMD student whose fake score still equals the teacher


class NotFinite(RuntimeError):
    """A role's gradients stay non-finite: skipping does not help."""


class Engines(Protocol):
    """What the step and the worker ask of however the roles are held."""

    networks: Networks
    rate_factor: float
    """Of every learning rate: below 1 after a rollback."""

    def training(self, roles: tuple[Role, ...]) -> Any: ...
    def backward(self, roles: tuple[Role, ...], loss: Tensor, last: bool) -> None: ...
    def step(self, roles: tuple[Role, ...]) -> dict[str, Tensor]: ...
    def pull(self, role: Role, towards: Role, decay: float) -> None: ...
    def tensors(self) -> Iterator[tuple[Role, str, Tensor]]: ...
    def state(self) -> dict[str, Any]: ...
    def skipping(self) -> dict[Role, int]: ...
    def load(self, checkpoint: Checkpoint) -> None: ...
    def begin(self, checkpoint: Checkpoint) -> None: ...
    def frozen_hash(self) -> str: ...


@dataclass
class _Held:
    """One role: its network, its DeepSpeed engine (at stage 0 the network itself), and what that does not know."""

    module: nn.Module
    engine: Any
    config: RoleConfig
    total_updates: int
    updates: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    without_gradient: int = 0
    ema: ShardedEMA | None = None
    trainable: list[tuple[str, nn.Parameter]] = field(default_factory=list)
    averages: list[AverageRole] = field(default_factory=list)
    descends: bool = False

    @property
    def body(self) -> nn.Module:
        """The network that is called: the module itself, or the base that it is an adapter on."""
        body: nn.Module = getattr(self.module, "body", self.module)
        return body

    @property
    def zero_optimizer(self) -> Any:
        return self.engine.optimizer

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        inner: torch.optim.Optimizer = self.engine.optimizer.optimizer
        return inner


class _Network:
    """A role's network as its adapter calls it: through the engine where the role is updated, else as the bare module,
    whose hooks gather its weights as well. DeepSpeed takes a gradient that only passes through an engine's output for
    a backward of that engine's own, and refuses it."""

    def __init__(self, held: _Held) -> None:
        self._held = held

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (self._held.engine if self._held.descends else self._held.module)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._held.body, name)  # parts that adapters hook


class DeepSpeedEngines:
    """Each role in its own DeepSpeed engine; frozen roles under ZeRO-3 without an optimizer."""

    def __init__(
        self,
        modules: Iterable[tuple[Role, nn.Module]],
        configs: Mapping[Role, RoleConfig],
        denoiser: Callable[..., Denoiser],
        total_updates: Mapping[Role, int],
        micro_batch: int,
        heads: Mapping[Role, tuple[int, ...]] = MappingProxyType({}),
        averages: Mapping[Role, Average] = MappingProxyType({}),
        nonfinite_limit: int = 10,
    ) -> None:
        """``modules`` are taken one at a time: each is sharded before the next is loaded. Of a trained role, what does
        not ask for gradients stays frozen (the base of its adapters). ``heads`` are the roles that are heads, and the
        blocks that each looks at, ``averages`` those that are one; all others stand behind ``denoiser``. More than
        ``nonfinite_limit`` skipped updates in a row are NotFinite."""
        self.rate_factor, self._nonfinite_limit = 1.0, nonfinite_limit
        self._held = {
            role: _Held(
                module,
                zero.initialize(module, configs[role], micro_batch),
                configs[role],
                total_updates.get(role, 0),
                trainable=[(plain(n), p) for n, p in module.named_parameters() if p.requires_grad],
            )
            for role, module in modules
        }
        for held in self._held.values():
            if held.config.ema_decay is not None:
                held.ema = ShardedEMA(zero.local_shards(held.trainable), held.config.ema_decay)
        for role, average in averages.items():
            source = self._held[average.of]
            source.averages.append(
                AverageRole(role, average.of, source.trainable, self._held[role].module, average.decay)
            )
        self.networks: Networks = {
            role: FeatureDiscriminator(_Network(held), DTYPES[held.config.dtype], heads[role])  # type: ignore[misc]
            if role in heads
            else denoiser(_Network(held), DTYPES[held.config.dtype])
            for role, held in self._held.items()
        }

    @property
    def _trained(self) -> dict[Role, _Held]:
        return {role: held for role, held in self._held.items() if held.trainable}

    @contextmanager
    def training(self, roles: tuple[Role, ...]) -> Iterator[None]:
        """Only ``roles`` can receive a gradient inside; it may pass through the others on its way."""
        others = [p for role, held in self._trained.items() if role not in roles for _, p in held.trainable]
        for parameter in others:
            parameter.requires_grad_(False)
        for role in roles:
            self._held[role].descends = True
        try:
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)
            for role in roles:
                self._held[role].descends = False

    def backward(self, roles: tuple[Role, ...], loss: Tensor, last: bool) -> None:
        """Accumulate gradients; ``last`` marks the last micro-batch of an update."""
        (role,) = roles
        engine = self._held[role].engine
        engine.set_gradient_accumulation_boundary(last)
        engine.backward(loss)

    def step(self, roles: tuple[Role, ...]) -> dict[str, Tensor]:
        """Descend. DeepSpeed skips on all ranks where the gradient norm, which they share, is not finite; a skipped
        role's weights, schedule and EMA stay as they were, and the skip is counted."""
        logs: dict[str, Tensor] = {}
        for role in roles:
            held = self._held[role]
            assert held.config.optimizer is not None
            rate = self.rate_factor * learning_rate(held.config.optimizer, held.updates, held.total_updates)
            for group in held.optimizer.param_groups:
                group["lr"] = rate
            held.engine.step()
            if held.zero_optimizer.overflow:
                held.skipped += 1
                held.skipped_in_a_row += 1
                if held.skipped_in_a_row > self._nonfinite_limit:
                    raise NotFinite(
                        f"loss or gradient of {role} was not finite in {held.skipped_in_a_row} updates in a row, after "
                        f"{held.updates} good ones: lower roles.{role}.optimizer.learning_rate, or its clip_norm"
                    )
            else:
                held.updates += 1
                held.skipped_in_a_row = 0
                if held.ema is not None and held.updates % held.config.ema_interval == 0:
                    held.ema.update()
                for average in held.averages:
                    average.update()
            norm = float(held.engine.get_global_grad_norm())
            _check_gradient(role, held, norm)
            logs[f"{role}_grad_norm"] = torch.tensor(norm)
            logs[f"{role}_lr"] = torch.tensor(rate)
            logs[f"{role}_skipped"] = torch.tensor(float(held.skipped))
        return logs

    @torch.no_grad()
    def pull(self, role: Role, towards: Role, decay: float) -> None:
        """Move one role's weights towards another's, unless that one's update was skipped. Tensor by tensor, each whole
        for a moment (a collective): the two may be held under different ZeRO stages."""
        if self._held[towards].zero_optimizer.overflow:
            return
        for (_, own), (_, other) in zip(self._held[role].trainable, self._held[towards].trainable, strict=True):
            weights = torch.lerp(zero.master(other), zero.master(own), decay)
            zero.set_master(own, weights)
            zero.set_compute_weights(own, weights)

    def tensors(self) -> Iterator[tuple[Role, str, Tensor]]:
        """(role, "kind/parameter", whole fp32 tensor) of all that a checkpoint keeps; each is a collective."""
        for role, held in self._trained.items():
            for name, parameter in held.trainable:
                yield role, f"weights/{name}", zero.master(parameter)
                if held.updates:
                    for moment in zero.MOMENTS:
                        yield role, f"{moment}/{name}", zero.moment(parameter, moment)
                if held.ema is not None:
                    yield role, f"ema/{name}", zero.whole(parameter, held.ema.average.get(name))
            for average in held.averages:
                yield from average.tensors()

    def state(self) -> dict[str, Any]:
        """Counters per role: attempts and successes differ where updates were skipped."""
        return {role: {"updates": held.updates, "skipped": held.skipped} for role, held in self._trained.items()}

    def skipping(self) -> dict[Role, int]:
        """Of roles whose last updates were skipped: how many in a row."""
        return {role: held.skipped_in_a_row for role, held in self._trained.items() if held.skipped_in_a_row}

    @torch.no_grad()
    def load(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint of any world size and ZeRO stage, bit for bit at the same world size."""
        for role, held in self._trained.items():
            counters = checkpoint.state["roles"][role]
            held.updates, held.skipped = counters["updates"], counters["skipped"]
            held.skipped_in_a_row = checkpoint.state.get(SKIPPING, {}).get(role, 0)
            averaged = set(checkpoint.names(role, "ema"))
            if held.updates:
                zero.make_moments(held.engine, held.updates)
            for name, parameter in held.trainable:
                weights = checkpoint.tensor(role, "weights", name).to(parameter.device)
                zero.set_master(parameter, weights)
                zero.set_compute_weights(parameter, weights)
                if held.updates:
                    for moment in zero.MOMENTS:
                        value = checkpoint.tensor(role, moment, name).to(parameter.device)
                        zero.set_master(parameter, value, moment)
                if held.ema is not None:  # of a run that had no average, one from now on
                    value = checkpoint.tensor(role, "ema", name) if name in averaged else weights
                    zero.set_shard(parameter, held.ema.average.get(name), value)
            for average in held.averages:
                average.load(checkpoint)

    @torch.no_grad()
    def begin(self, checkpoint: Checkpoint) -> None:
        """Start anew with the weights of the trained roles that ``checkpoint`` holds; averages begin with them."""
        for role, held in self._trained.items():
            if role not in checkpoint.state["roles"]:
                continue
            for name, parameter in held.trainable:
                weights = checkpoint.tensor(role, "weights", name).to(parameter.device)
                zero.set_master(parameter, weights)
                zero.set_compute_weights(parameter, weights)
                if held.ema is not None:
                    zero.set_shard(parameter, held.ema.average.get(name), weights)
            for average in held.averages:
                average.begin(checkpoint)

    def frozen_hash(self) -> str:
        """sha256 over all ranks' shards of what is frozen, roles and bases of adapters: equal at the start and the end
        of a run. What is trained and what is an average are left out."""
        digest = hashlib.sha256()
        moving = {id(p) for held in self._held.values() for _, p in held.trainable}
        moving |= {id(p) for held in self._held.values() for average in held.averages for p in average.parameters}
        for held in self._held.values():
            for name, tensor in chain(held.module.named_parameters(), held.module.named_buffers()):  # int8 weights
                if id(tensor) not in moving:
                    shard: Any = getattr(tensor, "ds_tensor", tensor).detach().cpu().contiguous()
                    digest.update(name.encode())
                    digest.update(shard.reshape(-1).view(torch.uint8).numpy())
        every: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(every, digest.hexdigest())
        return hashlib.sha256("".join(every).encode()).hexdigest()


def _check_gradient(role: Role, held: _Held, norm: float) -> None:
    """RuntimeError, on all ranks since they share the norm, when nothing has reached a role's parameters for long."""
    held.without_gradient = held.without_gradient + 1 if norm == 0 else 0
    if held.without_gradient == NO_GRADIENT_LIMIT:
        raise RuntimeError(
            f"the gradient of {role} was exactly 0 in {NO_GRADIENT_LIMIT} updates in a row: its loss does not reach "
            f"its {len(held.trainable)} trainable tensors ({held.trainable[0][0]}, ...)"
        )
