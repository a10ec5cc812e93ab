"""The one place that touches DeepSpeed: build an engine; move whole fp32 tensors in and out of shards."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ray_distill.config.roles import Optimizer, RoleConfig
from ray_distill.models.loading import own_parameters
from ray_distill.models.weights import Weights
from ray_distill.train.worker.masters import Read, exact, remember
from ray_distill.train.worker.zero0 import WholeAdamW, is_whole, state_of

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
# DeepSpeed's autotuner, which nothing here uses, would import MLflow: two of its four seconds in each worker.
if without := "mlflow" not in sys.modules:
    sys.modules["mlflow"] = None  # type: ignore[assignment]
import deepspeed  # after DS_ACCELERATOR, which it reads at import
import deepspeed.ops
import deepspeed.runtime.bf16_optimizer
from deepspeed.runtime.zero import parameter_offload
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_get_local_fp32_param,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)

if without:
    del sys.modules["mlflow"]
# On a CPU DeepSpeed would compile a shared-memory op for minutes, and needs gcc for it. gloo does without.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
deepspeed.utils.logger.setLevel(logging.WARNING)
# The optimizer of bf16 under ZeRO-1 prints the machine's memory seven times, and collects garbage for it.
deepspeed.runtime.bf16_optimizer.see_memory_usage = lambda *_, **__: None

MOMENTS = ("exp_avg", "exp_avg_sq")
BUCKET = 5 * 10**8  # DeepSpeed's own number of elements that it reduces at once
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NAMES = {"float32": "fp32", "bfloat16": "bf16"}  # DeepSpeed's


def settings(config: RoleConfig, micro_batch: int, trained: int) -> dict[str, Any]:
    """DeepSpeed's configuration of a role with ``trained`` elements that ask for gradients.

    Every key stands in every configuration: what is left out has DeepSpeed's own default, a clip at a norm of 1 among
    them."""
    zero: dict[str, Any] = {
        "stage": config.zero,
        "stage3_param_persistence_threshold": 0,
        "reduce_bucket_size": max(1, min(BUCKET, trained)),
    }
    pinned = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if config.offload_optimizer:
        zero["offload_optimizer"] = pinned
    if config.offload_parameters:
        zero["offload_param"] = pinned
    made: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": 1,  # Engines.backward marks the last micro-batch itself
        "zero_optimization": zero,
        "bf16": {"enabled": config.dtype == "bfloat16", "check_grad_overflow": True},
        "data_types": {"grad_accum_dtype": NAMES[config.gradient_dtype]},
        "communication_data_type": NAMES[config.dtype],
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # it would be compiled on the spot; torch's AdamW runs on a CPU as well
        "steps_per_print": 1 << 60,
        # At stage 0 WholeAdamW clips; DeepSpeed would before it, and hide the norm.
        "gradient_clipping": config.optimizer.clip_norm if config.optimizer is not None and config.zero else 0.0,
    }
    return made


def fill(module: nn.Module, weights: Weights, config: RoleConfig) -> nn.Module:
    """Put ``weights`` in the place of the parameters of ``module``, which are on the meta device, one after the other
    and at once on the rank's own device (a collective under ZeRO-3). All take the role's dtype under every stage, also
    the parts that diffusers would keep in fp32: a DeepSpeed engine has one dtype.

    Under ZeRO-3 rank 0 alone reads: it sends each to the others, and all keep their shard before the next is read. Else
    every rank reads all of them; the file's pages are in a node's memory once.
    """
    device, sharded = deepspeed.get_accelerator().current_device_name(), config.zero == 3
    reads = not sharded or dist.get_rank() == 0
    for owner, last, name, empty in own_parameters(module):
        value = torch.empty(empty.shape, dtype=DTYPES[config.dtype], device=device)
        if reads:
            value.copy_(weights[name])
        parameter = nn.Parameter(value)
        remember(parameter, weights, name)
        if sharded:
            _shard(parameter, config)
        setattr(owner, last, parameter)
    for part in module.modules():  # DeepSpeed moves nothing of a module that is sharded already
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, buffer.to(device))
    return module


def _shard(parameter: nn.Parameter, config: RoleConfig) -> None:
    """Rank 0's value in all ranks' shards, as ``deepspeed.initialize`` would have it."""
    alone = nn.ParameterList([parameter])
    deepspeed.zero.Init(module=alone, config_dict_or_path=settings(config, 1, 0))


def initialize(module: nn.Module, config: RoleConfig, micro_batch: int) -> Any:
    """A DeepSpeed engine of ``module``: without an optimizer frozen, else trained where it asks for gradients.

    Below stage 3 a frozen ``module`` is left as it is: no engine could make its calls cheaper."""
    if config.gradient_checkpointing:  # of a frozen role, too: gradients may pass through it
        module.enable_gradient_checkpointing()  # type: ignore[operator]
    if config.optimizer is None:
        return _frozen(module, config, micro_batch)
    finer = exact(module) if config.dtype == "bfloat16" else []
    trained = sum(_shape(p).numel() for p in module.parameters() if p.requires_grad)
    optimizer = _adamw(module, config.optimizer)
    if config.optimizer.clip_value:
        optimizer.register_step_pre_hook(_clamp(config.optimizer.clip_value))
    made = settings(config, micro_batch, trained)
    if config.zero == 0:
        whole = WholeAdamW(optimizer, config.optimizer.clip_norm)
        engine, *_ = deepspeed.initialize(model=module, optimizer=lambda _: whole, config=made)
        engine.train()
        return engine
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=made)
    # In fp32 DeepSpeed looks for bad gradients only where this is set.
    engine.optimizer.check_grad_overflow = True
    engine.train()
    for parameter, read in finer:
        _begin(parameter, read)
    return engine


def _frozen(module: nn.Module, config: RoleConfig, micro_batch: int) -> Any:
    exact(module.requires_grad_(False))  # nothing of it is read again
    if config.zero < 3:
        return module.eval().to(deepspeed.get_accelerator().current_device_name())
    engine, *_ = deepspeed.initialize(model=module, config=settings(config, micro_batch, 0))
    engine.eval()
    return engine


def _begin(parameter: nn.Parameter, read: Read) -> None:
    """Set the masters to the exact value, which rank 0 reads and sends to the others (a collective)."""
    value = torch.empty(_shape(parameter), device=deepspeed.get_accelerator().current_device_name())
    if dist.get_rank() == 0:
        value.copy_(read())
    dist.broadcast(value, 0)
    set_master(parameter, value)


def _adamw(module: nn.Module, config: Optimizer) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        [p for p in module.parameters() if p.requires_grad],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )


def _clamp(limit: float) -> Callable[..., None]:
    """Clip by value, which DeepSpeed lacks: when it calls AdamW, gradients are averaged over ranks and unscaled."""

    def hook(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for flat in group["params"]:
                if flat.grad is not None:
                    flat.grad.clamp_(-limit, limit)

    return hook


def master(parameter: nn.Parameter) -> Tensor:
    """The whole fp32 master weights (a collective)."""
    if is_whole(parameter):
        return parameter.detach().clone()
    weights: Tensor = safe_get_full_fp32_param(parameter)
    return weights


def moment(parameter: nn.Parameter, name: str) -> Tensor:
    """A whole moment of AdamW, by its name there (a collective)."""
    if is_whole(parameter):
        own: Tensor = state_of(parameter)[name].clone()
        return own
    value: Tensor = safe_get_full_optimizer_state(parameter, name)
    return value


def _is_zero3(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_id")


def local_shard(parameter: nn.Parameter) -> Tensor | None:
    """A view of this rank's piece of the fp32 master weights, or None where this rank holds none of it."""
    if _is_zero3(parameter):
        shard: Tensor = safe_get_local_fp32_param(parameter)
        return shard
    if is_whole(parameter):
        return parameter.data.view(-1)
    mapping = parameter._hp_mapping  # type: ignore[attr-defined]
    return None if mapping is None else mapping.get_hp_fragment()


def local_shards(parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[str, Tensor]:
    """This rank's pieces by name; what it holds nothing of is left out."""
    return {name: shard for name, parameter in parameters if (shard := local_shard(parameter)) is not None}


def _shard_start(parameter: nn.Parameter) -> int:
    """Where this rank's piece starts in the flat parameter."""
    if _is_zero3(parameter):
        return dist.get_rank() * int(parameter.ds_tensor.ds_numel)  # type: ignore[attr-defined]
    if is_whole(parameter):
        return 0
    return int(parameter._hp_mapping.lp_fragment_address.start)  # type: ignore[attr-defined]


def _shape(parameter: nn.Parameter) -> torch.Size:
    return parameter.ds_shape if _is_zero3(parameter) else parameter.shape  # type: ignore[attr-defined]


def whole(parameter: nn.Parameter, shard: Tensor | None) -> Tensor:
    """The whole tensor of which every rank holds a shard laid out as ``parameter``'s (a collective)."""
    shape = _shape(parameter)
    if is_whole(parameter):
        assert shard is not None
        return shard.clone().reshape(shape)
    flat = torch.zeros(shape.numel(), dtype=torch.float32, device=parameter.device)
    if shard is not None:
        piece = flat[_shard_start(parameter) :][: shard.numel()]
        piece.copy_(shard[: piece.numel()])
    dist.all_reduce(flat)
    return flat.reshape(shape)


def piece(parameter: nn.Parameter, value: Tensor, numel: int) -> Tensor:
    """This rank's ``numel`` elements of a whole tensor, zero past its end."""
    cut = value.new_zeros(numel)
    mine = value.flatten()[_shard_start(parameter) :][:numel]
    cut[: mine.numel()] = mine
    return cut


def set_shard(parameter: nn.Parameter, shard: Tensor | None, value: Tensor) -> None:
    """Set a shard laid out as ``parameter``'s from the whole tensor."""
    if shard is not None:
        shard.copy_(piece(parameter, value.to(shard.device), shard.numel()))


def set_from_shard(frozen: nn.Parameter, parameter: nn.Parameter, shard: Tensor | None) -> None:
    """Give a frozen weight the value whose shards are laid out as ``parameter``'s; under ZeRO-3 without communication,
    else a collective."""
    if _is_zero3(frozen):
        frozen.ds_tensor.copy_(shard)  # type: ignore[attr-defined]
    else:
        frozen.data.copy_(whole(parameter, shard))  # in fp32: gloo adds no bf16


def set_master(parameter: nn.Parameter, value: Tensor, moment: str | None = None) -> None:
    """Set the fp32 master weights (or a moment of AdamW) from the whole tensor; each rank keeps its piece."""
    if is_whole(parameter):
        with torch.no_grad():
            (parameter if moment is None else state_of(parameter)[moment]).copy_(value)
        return
    if not _is_zero3(parameter):
        if moment is None:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, moment)
        return
    # ZeRO-3 cuts a tensor into equal pieces, so the last reaches past its end; the full setter fails on such a one.
    mine = piece(parameter, value, int(parameter.ds_tensor.ds_numel))  # type: ignore[attr-defined]
    if moment is None:
        safe_set_local_fp32_param(parameter, mine)
    else:
        safe_set_local_optimizer_state(parameter, mine, moment)


def set_compute_weights(parameter: nn.Parameter, weights: Tensor) -> None:
    """The weights that the next forward uses are not the masters: without this the first step runs on the old ones."""
    if _is_zero3(parameter):
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if dist.get_rank() == 0:
                parameter.data.copy_(weights)
    else:
        parameter.data.copy_(weights)


def let_go(engine: Any) -> None:
    """End an engine: without this the hooks on its parameters' gradients, which autograd holds, keep all of it."""
    if isinstance(engine, deepspeed.DeepSpeedEngine):
        engine.destroy()
        if engine.zero_optimization_stage() == 3:
            # Its parameters are kept for good: what they hold, shards and engine, goes, and their shells stay.
            for parameter in engine.module.parameters():
                vars(parameter).clear()
        if isinstance(engine.optimizer, DeepSpeedZeroOptimizer_Stage3):
            adamw = engine.optimizer.optimizer
            adamw.state.clear()
            adamw.param_groups.clear()
            vars(engine.optimizer).clear()


def forget() -> None:
    """Free the memory of engines that were let go of, which DeepSpeed's list of modules at work keeps as well."""
    parameter_offload.FWD_MODULE_STACK.clear()
    gc.collect()
    deepspeed.get_accelerator().empty_cache()


def make_moments(engine: Any, updates: int) -> None:
    """Give a fresh AdamW the state that its first step would, so that moments can be set."""
    sharded, adamw = engine.optimizer, engine.optimizer.optimizer
    masters = getattr(sharded, "fp32_partitioned_groups_flat", None)  # ZeRO-3 hands AdamW its groups one at a time
    if masters is None:
        masters = [flat for group in adamw.param_groups for flat in group["params"]]
    for flat in masters:
        moments = {moment: torch.zeros_like(flat) for moment in MOMENTS}
        adamw.state[flat] = {"step": torch.tensor(float(updates)), **moments}
    if engine.zero_optimization_stage() in (1, 2):
        sharded._lazy_init_hp_params_optimizer_state()  # they link a parameter to its moments at the first step
