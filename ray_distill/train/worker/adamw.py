"""A role's AdamW: its clip by value and its moments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ray_distill.config.roles import Optimizer
from ray_distill.train.worker.shards import MOMENTS


def adamw(module: nn.Module, config: Optimizer) -> torch.optim.AdamW:
    """AdamW of the parameters that require gradients, which a DeepSpeed engine replaces by its fp32 masters."""
    optimizer = torch.optim.AdamW(
        [p for p in module.parameters() if p.requires_grad],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,  # one pass over weights, gradients and moments
    )
    if config.clip_value:
        optimizer.register_step_pre_hook(_clamp(config.clip_value))
    return optimizer


def _clamp(limit: float) -> Callable[..., None]:
    """Clip by value, which DeepSpeed lacks: when it calls AdamW, gradients are averaged over ranks and unscaled."""

    def hook(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for flat in group["params"]:
                if flat.grad is not None:
                    flat.grad.clamp_(-limit, limit)

    return hook


def make_moments(engine: Any, updates: int) -> None:
    """Give a fresh AdamW the state of its first step, so that moments can be set."""
    sharded, adamw = engine.optimizer, engine.optimizer.optimizer
    masters = getattr(sharded, "fp32_partitioned_groups_flat", None)  # ZeRO-3 hands AdamW its groups one at a time
    if masters is None:
        masters = [flat for group in adamw.param_groups for flat in group["params"]]
    for flat in masters:
        moments = {moment: torch.zeros_like(flat) for moment in MOMENTS}
        adamw.state[flat] = {"step": torch.tensor(float(updates), device=flat.device), **moments}
    if engine.zero_optimization_stage() in (1, 2):
        sharded._lazy_init_hp_params_optimizer_state()  # they link a parameter to its moments at the first step
