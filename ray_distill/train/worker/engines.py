"""DeepSpeedEngines: one engine per role, each with its own ZeRO stage, dtype, optimizer and EMA."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from types import MappingProxyType
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ray_distill.checkpoint import Checkpoint
from ray_distill.checkpoint.retention import SKIPPING
from ray_distill.config.roles import RoleConfig
from ray_distill.models.exits import NAME as EXITS
from ray_distill.models.heads import FeatureDiscriminator
from ray_distill.models.lora import plain
from ray_distill.train.schedule import learning_rate
from ray_distill.train.worker import shards, zero
from ray_distill.train.worker.adamw import make_state, set_step, set_updates
from ray_distill.train.worker.average import AverageRole
from ray_distill.train.worker.carried import Carried
from ray_distill.train.worker.role import EMA, EngineRole, RoleNetwork, check_gradient
from ray_distill.train.worker.zero import DTYPES
from ray_distill.types import Average, Denoiser, Networks, Role


class NotFinite(RuntimeError):
    """Error: a role's gradients stay non-finite, so skipping does not help."""


class Engines(Protocol):
    """Protocol of the roles' engines, for the step and the worker."""

    networks: Networks
    rate_factor: float
    """Factor of every learning rate: below 1 after a rollback."""

    def training(self, role: Role) -> Any: ...
    def backward(self, role: Role, loss: Tensor, last: bool) -> None: ...
    def step(self, role: Role) -> dict[str, Tensor]: ...
    def pull(self, role: Role, towards: Role, decay: float) -> None: ...
    def tensors(self, cut: bool = True) -> Iterator[tuple[Role, str, Tensor]]: ...
    def pieces(self) -> Iterator[tuple[Role, str, Tensor]]: ...
    def state(self) -> dict[str, Any]: ...
    def skipping(self) -> dict[Role, int]: ...
    def load(self, checkpoint: Checkpoint) -> None: ...
    def begin(self, checkpoint: Checkpoint) -> None: ...
    def carry(self, checkpoint: Checkpoint) -> None: ...
    def close(self) -> None: ...
    def frozen_hash(self) -> str: ...


class DeepSpeedEngines:
    """One DeepSpeed engine per role; frozen roles under ZeRO-3 have no optimizer."""

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
        finished: Mapping[Role, str] = MappingProxyType({}),
    ) -> None:
        """Take ``modules`` one at a time, so that each is sharded before the next is loaded.

        Parameters of a trained role that require no gradient stay frozen (the base of its adapters). ``heads`` maps
        roles of heads to the blocks that they read, ``averages`` maps roles that are averages to their sources;
        ``denoiser`` wraps all others. More than ``nonfinite_limit`` skipped updates in a row raise NotFinite.
        ``finished`` maps roles of an earlier stage to the kind of tensors that they take from the checkpoint of this
        stage."""
        self.rate_factor, self._nonfinite_limit = 1.0, nonfinite_limit
        self._finished, self._carried = finished, Carried(finished)
        self._roles = {
            role: EngineRole(
                module,
                zero.initialize(module, configs[role], micro_batch),
                configs[role],
                total_updates.get(role, 0),
                trainable=[(plain(n), p) for n, p in module.named_parameters() if p.requires_grad],
            )
            for role, module in modules
        }
        for role, average in averages.items():
            source = self._roles[average.of]
            source.averages.append(
                AverageRole(role, average.of, source.trainable, self._roles[role].module, average.decay)
            )
        for entry in self._trained.values():
            make_state(entry.engine, [average.role for average in entry.averages] + [EMA] * entry.averaged)
        self.networks: Networks = {
            role: FeatureDiscriminator(RoleNetwork(entry), DTYPES[entry.config.dtype], heads[role])  # type: ignore[misc]
            if role in heads
            else denoiser(RoleNetwork(entry), DTYPES[entry.config.dtype])
            for role, entry in self._roles.items()
        }

    @property
    def _trained(self) -> dict[Role, EngineRole]:
        return {role: entry for role, entry in self._roles.items() if entry.trainable}

    @contextmanager
    def training(self, role: Role) -> Iterator[None]:
        """Let only ``role`` receive a gradient inside; the gradient may pass through the others."""
        others = [p for other, entry in self._trained.items() if other != role for _, p in entry.trainable]
        for parameter in others:
            parameter.requires_grad_(False)
        self._roles[role].descends = True
        try:
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)
            self._roles[role].descends = False

    def backward(self, role: Role, loss: Tensor, last: bool) -> None:
        """Accumulate gradients; ``last`` marks the last micro-batch of an update."""
        engine = self._roles[role].engine
        engine.set_gradient_accumulation_boundary(last)
        engine.backward(loss)

    def step(self, role: Role) -> dict[str, Tensor]:
        """Descend. If the gradient norm, which all ranks share, is not finite, DeepSpeed skips the update on all ranks:
        the role's weights, schedule and EMA stay, and the skip counts."""
        entry = self._roles[role]
        assert entry.config.optimizer is not None
        rate = self.rate_factor * learning_rate(entry.config.optimizer, entry.updates, entry.total_updates)
        set_step(entry.optimizer, rate, entry.shares())
        entry.engine.step()
        if entry.zero_optimizer.overflow:
            entry.skipped += 1
            entry.skipped_in_a_row += 1
            if entry.skipped_in_a_row > self._nonfinite_limit:
                raise NotFinite(
                    f"loss or gradient of {role} was not finite in {entry.skipped_in_a_row} updates in a row, after "
                    f"{entry.updates} good ones: lower roles.{role}.optimizer.learning_rate, or its clip_norm"
                )
        else:
            entry.updates += 1
            entry.skipped_in_a_row = 0
            for average in entry.averages:
                average.follow()
        norm = float(entry.engine.get_global_grad_norm())
        check_gradient(role, entry, norm)
        logged = {"grad_norm": norm, "lr": rate, "skipped": float(entry.skipped)}
        return {f"{role}_{name}": torch.tensor(value) for name, value in logged.items()}

    @torch.no_grad()
    def pull(self, role: Role, towards: Role, decay: float) -> None:
        """Move the weights of ``role`` towards those of ``towards``, unless the update of ``towards`` was skipped (a
        collective). The two may have different ZeRO stages."""
        if self._roles[towards].zero_optimizer.overflow:
            return
        own = self._roles[role].trainable
        both = zip(own, shards.masters(own), shards.masters(self._roles[towards].trainable), strict=True)
        for (_, parameter), (_, weights), (_, goal) in both:
            pulled = torch.lerp(goal, weights, decay)
            shards.set_weights(parameter, pulled)

    def tensors(self, cut: bool = True) -> Iterator[tuple[Role, str, Tensor]]:
        """Yield (role, "kind/parameter", whole fp32 tensor) for a checkpoint, gathered in buckets; copy a tensor that
        must outlive the next. ``cut=False`` leaves out the tensors whose pieces ``pieces`` yields."""
        every = (piece for piece in self._pieces() if cut or not shards.is_cut(piece[1]))
        for (role, name), tensor in shards.gathered(every):
            yield role, name, tensor
        yield from self._carried.tensors()

    def pieces(self) -> Iterator[tuple[Role, str, Tensor]]:
        """Yield this rank's pieces, under ZeRO-3, of a checkpoint's tensors, by their names there."""
        yield from shards.named(piece for piece in self._pieces() if shards.is_cut(piece[1]))

    def _pieces(self) -> Iterator[shards.Piece[tuple[Role, str]]]:
        """This rank's pieces of a checkpoint's tensors of trained roles and averages."""
        for role, entry in self._trained.items():
            for name, parameter in entry.trainable:
                yield (role, f"weights/{name}"), parameter, shards.local_shard(parameter)
                for moment in shards.MOMENTS if entry.updates else ():
                    yield (role, f"{moment}/{name}"), parameter, shards.local_shard(parameter, moment)
                if entry.averaged:
                    yield (role, f"ema/{name}"), parameter, shards.local_shard(parameter, EMA)
            for average in entry.averages:
                yield from average.pieces()

    def state(self) -> dict[str, Any]:
        """Counters per role; attempts and successes differ by the skipped updates."""
        trained = {role: {"updates": entry.updates, "skipped": entry.skipped} for role, entry in self._trained.items()}
        return trained | self._carried.state()

    def skipping(self) -> dict[Role, int]:
        """Skipped updates in a row, by role, for roles whose last update was skipped."""
        return {role: entry.skipped_in_a_row for role, entry in self._trained.items() if entry.skipped_in_a_row}

    @torch.no_grad()
    def load(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint of any world size and ZeRO stage, bit for bit at the same world size.

        In a stage after the first, a role that the checkpoint lacks keeps its first weights, since the checkpoint ends
        the stage before."""
        with checkpoint.kept_open():
            self._load(checkpoint)

    def _load(self, checkpoint: Checkpoint) -> None:
        self.carry(checkpoint)
        for role in self._finished:
            self._carried.put(role, self._roles[role].module)
        for role, entry in self._trained.items():
            counters = checkpoint.state["roles"].get(role)
            if counters is None:
                assert self._finished, f"{checkpoint.folder} holds no {role}"
                continue
            entry.updates, entry.skipped = counters["updates"], counters["skipped"]
            entry.skipped_in_a_row = checkpoint.state.get(SKIPPING, {}).get(role, 0)
            stored = set(checkpoint.names(role, "ema"))
            set_updates(entry.engine, entry.updates)
            for name, parameter in entry.trainable:
                weights = checkpoint.tensor(role, "weights", name).to(parameter.device)
                shards.set_weights(parameter, weights)
                if entry.updates:
                    for moment in shards.MOMENTS:
                        value = checkpoint.tensor(role, moment, name).to(parameter.device)
                        shards.set_master(parameter, value, moment)
                if entry.averaged:  # a run without an average may have one from now on
                    value = checkpoint.tensor(role, "ema", name).to(parameter.device) if name in stored else weights
                    shards.set_master(parameter, value, EMA)
            for average in entry.averages:
                average.load(checkpoint)

    @torch.no_grad()
    def begin(self, checkpoint: Checkpoint) -> None:
        """Start anew with the weights of the trained roles that ``checkpoint`` holds; averages begin with them."""
        with checkpoint.kept_open():
            self._begin(checkpoint)

    def _begin(self, checkpoint: Checkpoint) -> None:
        for role, entry in self._trained.items():
            if role not in checkpoint.state["roles"]:
                continue
            names = set(checkpoint.names(role, "weights"))
            for name, parameter in entry.trainable:
                if name.startswith(f"{EXITS}.") and name not in names:
                    continue  # the other run's fake score had no exit embedding, which begins at zero as in any run
                weights = checkpoint.tensor(role, "weights", name).to(parameter.device)
                shards.set_weights(parameter, weights)
                if entry.averaged:
                    shards.set_master(parameter, weights, EMA)
            for average in entry.averages:
                average.begin(checkpoint)

    def carry(self, checkpoint: Checkpoint) -> None:
        """Take the tensors of finished roles from ``checkpoint`` from now on, since each checkpoint holds them
        again."""
        self._carried.checkpoint = checkpoint

    def close(self) -> None:
        """End all engines and free their memory for those of the next stage."""
        for entry in self._roles.values():
            zero.let_go(entry.engine)

    def frozen_hash(self) -> str:
        """sha256 over all ranks' shards of the frozen tensors (of frozen roles and of adapters' bases), equal at the
        start and at the end of a run."""
        digest = hashlib.sha256()
        moving = {id(p) for entry in self._roles.values() for _, p in entry.trainable}
        moving |= {id(p) for entry in self._roles.values() for average in entry.averages for p in average.parameters}
        for entry in self._roles.values():
            for name, tensor in chain(entry.module.named_parameters(), entry.module.named_buffers()):  # int8 weights
                if id(tensor) not in moving:
                    shard: Any = getattr(tensor, "ds_tensor", tensor).detach().cpu().contiguous()
                    digest.update(name.encode())
                    digest.update(shard.reshape(-1).view(torch.uint8).numpy())
        every: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(every, digest.hexdigest())
        return hashlib.sha256("".join(every).encode()).hexdigest()
