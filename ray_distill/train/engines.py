"""DeepSpeed's room: one engine per role, each with its own ZeRO stage, precision, optimizer and EMA."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ray_distill.checkpoint import Checkpoint
from ray_distill.config.schema import Optimizer, RoleConfig
from ray_distill.train.ema import ShardedEMA
from ray_distill.train.schedule import learning_rate
from ray_distill.types import Denoiser, Networks, Role

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
import deepspeed  # after DS_ACCELERATOR, which it reads at import
import deepspeed.ops
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_get_local_fp32_param,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)

# On a CPU DeepSpeed would compile a shared-memory op for minutes, and needs gcc for it. gloo does without.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
deepspeed.utils.logger.setLevel(logging.WARNING)

MOMENTS = ("exp_avg", "exp_avg_sq")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Engines(Protocol):
    """What the step and the worker ask of however the roles are held."""

    networks: Networks

    def training(self, roles: tuple[Role, ...]) -> Any: ...
    def backward(self, roles: tuple[Role, ...], loss: Tensor, last: bool) -> None: ...
    def step(self, roles: tuple[Role, ...]) -> dict[str, Tensor]: ...
    def tensors(self) -> Iterator[tuple[Role, str, Tensor]]: ...
    def state(self) -> dict[str, Any]: ...
    def load(self, checkpoint: Checkpoint) -> None: ...
    def frozen_hash(self) -> str: ...


@dataclass
class _Held:
    """One role: its DeepSpeed engine and what the engine does not know."""

    engine: Any
    config: RoleConfig
    total_updates: int
    updates: int = 0
    skipped: int = 0
    ema: ShardedEMA | None = None
    trainable: list[tuple[str, nn.Parameter]] = field(default_factory=list)

    @property
    def zero_optimizer(self) -> Any:
        return self.engine.optimizer

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        inner: torch.optim.Optimizer = self.engine.optimizer.optimizer
        return inner


class SeparateEngines:
    """Each role in its own DeepSpeed engine; frozen roles under ZeRO-3 without an optimizer."""

    def __init__(
        self,
        modules: Mapping[Role, nn.Module],
        configs: Mapping[Role, RoleConfig],
        denoiser: type[Denoiser],
        total_updates: Mapping[Role, int],
        micro_batch: int,
    ) -> None:
        self._held = {
            role: _Held(
                _initialize(module, configs[role], micro_batch),
                configs[role],
                total_updates.get(role, 0),
                trainable=[(n, p) for n, p in module.named_parameters() if p.requires_grad],
            )
            for role, module in modules.items()
        }
        for held in self._held.values():
            if held.config.ema_decay is not None:
                shards = {name: s for name, p in held.trainable if (s := _local_shard(p)) is not None}
                held.ema = ShardedEMA(shards, held.config.ema_decay)
        self.networks: Networks = {
            role: denoiser(held.engine, DTYPES[held.config.dtype])  # type: ignore[call-arg]
            for role, held in self._held.items()
        }

    @property
    def _trained(self) -> dict[Role, _Held]:
        return {role: held for role, held in self._held.items() if held.trainable}

    @contextmanager
    def training(self, roles: tuple[Role, ...]) -> Iterator[None]:
        """Only ``roles`` can receive a gradient inside."""
        others = [p for role, held in self._trained.items() if role not in roles for _, p in held.trainable]
        for parameter in others:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

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
            rate = learning_rate(held.config.optimizer, held.updates, held.total_updates)
            for group in held.optimizer.param_groups:
                group["lr"] = rate
            held.engine.step()
            if held.zero_optimizer.overflow:
                held.skipped += 1
            else:
                held.updates += 1
                if held.ema is not None:
                    held.ema.update()
            logs[f"{role}_grad_norm"] = torch.as_tensor(float(held.engine.get_global_grad_norm()))
            logs[f"{role}_lr"] = torch.tensor(rate)
            logs[f"{role}_skipped"] = torch.tensor(float(held.skipped))
        return logs

    def tensors(self) -> Iterator[tuple[Role, str, Tensor]]:
        """(role, "kind/parameter", whole fp32 tensor) of all that a checkpoint keeps; each is a collective."""
        for role, held in self._trained.items():
            for name, parameter in held.trainable:
                yield role, f"weights/{name}", safe_get_full_fp32_param(parameter)
                if held.updates:
                    for moment in MOMENTS:
                        yield role, f"{moment}/{name}", safe_get_full_optimizer_state(parameter, moment)
                if held.ema is not None:
                    yield role, f"ema/{name}", _whole(parameter, held.ema.average.get(name))

    def state(self) -> dict[str, Any]:
        """Counters per role: attempts and successes differ where updates were skipped."""
        return {role: {"updates": held.updates, "skipped": held.skipped} for role, held in self._trained.items()}

    @torch.no_grad()
    def load(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint of any world size and ZeRO stage, bit for bit at the same world size."""
        for role, held in self._trained.items():
            counters = checkpoint.state["roles"][role]
            held.updates, held.skipped = counters["updates"], counters["skipped"]
            if held.updates:
                _make_moments(held, held.updates)
            for name, parameter in held.trainable:
                weights = checkpoint.tensor(role, "weights", name).to(parameter.device)
                _set_master(parameter, weights)
                _set_compute_weights(parameter, weights)
                if held.updates:
                    for moment in MOMENTS:
                        value = checkpoint.tensor(role, moment, name).to(parameter.device)
                        _set_master(parameter, value, moment)
                if held.ema is not None and name in held.ema.average:
                    average = checkpoint.tensor(role, "ema", name).to(parameter.device)
                    shard = held.ema.average[name]
                    piece = average.flatten()[_shard_start(parameter) :][: shard.numel()]
                    shard.zero_()[: piece.numel()] = piece

    def frozen_hash(self) -> str:
        """sha256 over the frozen roles' shards of all ranks: equal at the start and the end of a run."""
        digest = hashlib.sha256()
        for held in self._held.values():
            if not held.trainable:
                for name, parameter in held.engine.module.named_parameters():
                    shard = getattr(parameter, "ds_tensor", parameter).detach().cpu().contiguous()
                    digest.update(name.encode())
                    digest.update(shard.reshape(-1).view(torch.uint8).numpy())
        every: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(every, digest.hexdigest())
        return hashlib.sha256("".join(every).encode()).hexdigest()


def _initialize(module: nn.Module, config: RoleConfig, micro_batch: int) -> Any:
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": 1,  # Engines.backward marks the last micro-batch itself
        "zero_optimization": {"stage": config.zero, "stage3_param_persistence_threshold": 0},
        "bf16": {"enabled": config.dtype == "bfloat16"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 60,
    }
    if config.dtype == "bfloat16" and config.zero > 1:  # else micro-batches add up in bf16, and lose what is small
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    if config.optimizer is None:
        module.requires_grad_(False)
        engine, *_ = deepspeed.initialize(model=module, config=settings)
        engine.eval()
        return engine
    if config.gradient_checkpointing:
        module.enable_gradient_checkpointing()  # type: ignore[operator]
    settings["gradient_clipping"] = config.optimizer.clip_norm
    engine, *_ = deepspeed.initialize(model=module, optimizer=_adamw(module, config.optimizer), config=settings)
    # In fp32 DeepSpeed looks for bad gradients only where this is set.
    engine.optimizer.check_grad_overflow = True
    engine.train()
    return engine


def _adamw(module: nn.Module, config: Optimizer) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        [p for p in module.parameters() if p.requires_grad],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )


def _is_zero3(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_id")


def _local_shard(parameter: nn.Parameter) -> Tensor | None:
    """A view of this rank's piece of the fp32 master weights, or None where this rank holds none of it."""
    if _is_zero3(parameter):
        shard: Tensor = safe_get_local_fp32_param(parameter)
        return shard
    mapping = parameter._hp_mapping  # type: ignore[attr-defined]
    return None if mapping is None else mapping.get_hp_fragment()


def _shard_start(parameter: nn.Parameter) -> int:
    """Where this rank's piece starts in the flat parameter."""
    if _is_zero3(parameter):
        return dist.get_rank() * int(parameter.ds_tensor.ds_numel)  # type: ignore[attr-defined]
    return int(parameter._hp_mapping.lp_fragment_address.start)  # type: ignore[attr-defined]


def _shape(parameter: nn.Parameter) -> torch.Size:
    return parameter.ds_shape if _is_zero3(parameter) else parameter.shape  # type: ignore[attr-defined]


def _whole(parameter: nn.Parameter, shard: Tensor | None) -> Tensor:
    """The whole tensor of which every rank holds a shard laid out as ``parameter``'s (a collective)."""
    shape = _shape(parameter)
    flat = torch.zeros(shape.numel(), dtype=torch.float32, device=parameter.device)
    if shard is not None:
        piece = flat[_shard_start(parameter) :][: shard.numel()]
        piece.copy_(shard[: piece.numel()])
    dist.all_reduce(flat)
    return flat.reshape(shape)


def _set_master(parameter: nn.Parameter, value: Tensor, moment: str | None = None) -> None:
    """Set the fp32 master weights (or a moment of AdamW) from the whole tensor; each rank keeps its piece."""
    if not _is_zero3(parameter):
        if moment is None:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, moment)
        return
    # ZeRO-3 cuts a tensor into equal pieces, so the last reaches past its end; the full setter fails on such a one.
    piece = value.new_zeros(int(parameter.ds_tensor.ds_numel))  # type: ignore[attr-defined]
    mine = value.flatten()[_shard_start(parameter) :][: piece.numel()]
    piece[: mine.numel()] = mine
    if moment is None:
        safe_set_local_fp32_param(parameter, piece)
    else:
        safe_set_local_optimizer_state(parameter, piece, moment)


def _set_compute_weights(parameter: nn.Parameter, weights: Tensor) -> None:
    """The weights that the next forward uses are not the masters: without this the first step runs on the old ones."""
    if _is_zero3(parameter):
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if dist.get_rank() == 0:
                parameter.data.copy_(weights)
    else:
        parameter.data.copy_(weights)


def _make_moments(held: _Held, updates: int) -> None:
    """Give a fresh AdamW the state that its first step would, so that moments can be set."""
    zero = held.zero_optimizer
    masters = getattr(zero, "fp32_partitioned_groups_flat", None)  # ZeRO-3 hands AdamW its groups one at a time
    if masters is None:
        masters = [flat for group in held.optimizer.param_groups for flat in group["params"]]
    for flat in masters:
        moments = {moment: torch.zeros_like(flat) for moment in MOMENTS}
        held.optimizer.state[flat] = {"step": torch.tensor(float(updates)), **moments}
    if held.config.zero < 3:
        zero._lazy_init_hp_params_optimizer_state()  # ZeRO 1 and 2 link a parameter to its moments at the first step
