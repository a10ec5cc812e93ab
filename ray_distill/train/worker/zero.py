"""Build and end a role's DeepSpeed engine, with its settings, weights and optimizer."""

from __future__ import annotations

import gc
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ray_distill.config.roles import RoleConfig
from ray_distill.models.loading import RandomWeights, own_parameters
from ray_distill.models.weights import Weights
from ray_distill.train.worker.adamw import adamw
from ray_distill.train.worker.light_deepspeed import deepspeed
from ray_distill.train.worker.masters import Read, exact, remember
from ray_distill.train.worker.shards import set_master, whole_shape
from ray_distill.train.worker.zero0 import WholeAdamW

BUCKET = 5 * 10**8  # DeepSpeed's own number of elements that it reduces at once
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NAMES = {"float32": "fp32", "bfloat16": "bf16"}  # DeepSpeed's


def settings(config: RoleConfig, micro_batch: int, trained: int) -> dict[str, Any]:
    """DeepSpeed's configuration for a role with ``trained`` elements that require gradients.

    Every configuration sets every key, or DeepSpeed's own default would apply, such as a clip at a norm of 1."""
    zero: dict[str, Any] = {
        "stage": config.zero,
        "stage3_param_persistence_threshold": 0,
        "reduce_bucket_size": max(1, min(BUCKET, trained)),
        # Buckets copy each gradient against fragments in a GPU's memory; elsewhere that only costs time.
        "contiguous_gradients": torch.cuda.is_available(),
    }
    pinned = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if config.offload_optimizer:
        zero["offload_optimizer"] = pinned
    if config.offload_parameters:
        zero["offload_param"] = pinned
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": 1,  # Engines.backward marks the last micro-batch itself
        "zero_optimization": zero,
        "bf16": {"enabled": config.dtype == "bfloat16", "check_grad_overflow": True},
        "data_types": {"grad_accum_dtype": NAMES[config.gradient_dtype]},
        "communication_data_type": NAMES[config.dtype],
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's would be compiled here; torch's runs on a CPU too
        "steps_per_print": 1 << 60,
        # At stage 0 WholeAdamW clips; DeepSpeed would clip before it, and hide the norm.
        "gradient_clipping": config.optimizer.clip_norm if config.optimizer is not None and config.zero else 0.0,
    }


def fill(module: nn.Module, weights: Weights | RandomWeights, config: RoleConfig) -> nn.Module:
    """Load ``weights`` into ``module``, whose parameters are on the meta device: one after the other, each directly
    onto the rank's own device (a collective under ZeRO-3). All take the role's dtype under every
    stage, also the parts that diffusers would keep in fp32, since a DeepSpeed engine has one dtype.

    Under ZeRO-3 only rank 0 reads: it sends each weight to the others, and all keep their shard before the next read.
    Otherwise every rank reads all of them; the file's pages are in a node's memory once.
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
    for part in module.modules():  # DeepSpeed does not move a module that is already sharded
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, buffer.to(device))
    return module


def _shard(parameter: nn.Parameter, config: RoleConfig) -> None:
    """Shard rank 0's value over all ranks, as ``deepspeed.initialize`` would."""
    alone = nn.ParameterList([parameter])
    deepspeed.zero.Init(module=alone, config_dict_or_path=settings(config, 1, 0))


def initialize(module: nn.Module, config: RoleConfig, micro_batch: int) -> Any:
    """DeepSpeed engine of ``module``: frozen if the role has no optimizer, else trained in the parameters that require
    gradients.

    Below stage 3 a frozen ``module`` stays without an engine, which would not make its calls cheaper."""
    if config.gradient_checkpointing:  # of a frozen role, too: gradients may pass through it
        module.enable_gradient_checkpointing()  # type: ignore[operator]
    if config.optimizer is None:
        return _frozen(module, config, micro_batch)
    finer = exact(module) if config.dtype == "bfloat16" else []
    trained = sum(whole_shape(p).numel() for p in module.parameters() if p.requires_grad)
    optimizer = adamw(module, config.optimizer)
    engine_config = settings(config, micro_batch, trained)
    if config.zero == 0:
        whole = WholeAdamW(optimizer, config.optimizer.clip_norm)
        engine, *_ = deepspeed.initialize(model=module, optimizer=lambda _: whole, config=engine_config)
        engine.train()
        return engine
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=engine_config)
    if config.zero < 3 and config.dtype == "bfloat16" and not config.offload_optimizer:
        # A second look at each gradient and a collective: the norm, which is computed anyway, tells what is not finite.
        engine.optimizer.check_overflow = lambda **_: None
    engine.train()
    for parameter, read in finer:
        _begin(parameter, read)
    return engine


def _frozen(module: nn.Module, config: RoleConfig, micro_batch: int) -> Any:
    exact(module.requires_grad_(False))  # nothing reads it again
    if config.zero < 3:
        return module.eval().to(deepspeed.get_accelerator().current_device_name())
    engine, *_ = deepspeed.initialize(model=module, config=settings(config, micro_batch, 0))
    engine.eval()
    return engine


def _begin(parameter: nn.Parameter, read: Read) -> None:
    """Set the masters to the exact value, which rank 0 reads and sends to the others (a collective)."""
    value = torch.empty(whole_shape(parameter), device=deepspeed.get_accelerator().current_device_name())
    if dist.get_rank() == 0:
        value.copy_(read())
    dist.broadcast(value, 0)
    set_master(parameter, value)


def let_go(engine: Any) -> None:
    """End an engine; otherwise the hooks on its parameters' gradients, which autograd holds, keep all of it alive."""
    if isinstance(engine, deepspeed.DeepSpeedEngine):
        engine.destroy()
        if engine.zero_optimization_stage() == 3:
            # DeepSpeed keeps the parameters for good: drop their contents, shards and engine, and leave empty shells.
            for parameter in engine.module.parameters():
                vars(parameter).clear()
        if isinstance(engine.optimizer, deepspeed.runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3):
            adamw = engine.optimizer.optimizer
            adamw.state.clear()
            adamw.param_groups.clear()
            vars(engine.optimizer).clear()


def forget() -> None:
    """Free the memory of ended engines, which DeepSpeed's stack of running modules still references."""
    deepspeed.runtime.zero.parameter_offload.FWD_MODULE_STACK.clear()
    gc.collect()
    deepspeed.get_accelerator().empty_cache()
