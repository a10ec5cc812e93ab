"""A role's AdamW: its clip by value, its moments, and the averages that its own step moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ray_distill.config.roles import Optimizer
from ray_distill.train.worker.shards import MOMENTS


def adamw(module: nn.Module, config: Optimizer) -> torch.optim.AdamW:
    """AdamW of the parameters that require gradients, which a DeepSpeed engine replaces by its fp32 masters."""
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in module.parameters() if p.requires_grad], "shares": {}}],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,  # one pass over weights, gradients and moments
    )
    if config.clip_value:
        optimizer.register_step_pre_hook(_clamp(config.clip_value))
    optimizer.register_step_post_hook(_average)
    return optimizer


def set_step(optimizer: torch.optim.AdamW, rate: float, shares: Mapping[str, float]) -> None:
    """Set the next step's learning rate, and the share (1 - decay) of the new weights that each average, by name,
    takes in it."""
    for group in optimizer.param_groups:
        group["lr"], group["shares"] = rate, shares


@torch.no_grad()
def _average(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Move averages e <- e + share (p - e) of the fp32 weights that the step has written: none if it was skipped."""
    for group in optimizer.param_groups:
        for name, share in group["shares"].items():
            averages = [optimizer.state[flat][name] for flat in group["params"]]
            torch._foreach_lerp_(averages, group["params"], share)


def _clamp(limit: float) -> Callable[..., None]:
    """Clip by value, which DeepSpeed lacks: when it calls AdamW, gradients are averaged over ranks and unscaled."""

    def hook(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for flat in group["params"]:
                if flat.grad is not None:
                    flat.grad.clamp_(-limit, limit)

    return hook


def _masters(engine: Any) -> list[Tensor]:
    """This rank's flat fp32 weights, which AdamW steps."""
    masters = getattr(engine.optimizer, "fp32_partitioned_groups_flat", None)  # ZeRO-3 hands them over one at a time
    if masters is None:
        masters = [flat for group in engine.optimizer.optimizer.param_groups for flat in group["params"]]
    return list(masters)


@torch.no_grad()
def make_state(engine: Any, averages: Sequence[str]) -> None:
    """Give AdamW the state of its first step, so that moments can be set, and averages by name, which begin with the
    weights."""
    state = engine.optimizer.optimizer.state
    for flat in _masters(engine):
        moments = {moment: torch.zeros_like(flat) for moment in MOMENTS}
        begin = {name: flat.detach().clone() for name in averages}
        state[flat] = {"step": torch.zeros((), device=flat.device), **moments, **begin}
    if engine.zero_optimization_stage() in (1, 2):
        # They link a parameter to its state at the first step.
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def set_updates(engine: Any, updates: int) -> None:
    """Continue after ``updates`` steps, with moments that are still to be set."""
    for flat in _masters(engine):
        state = engine.optimizer.optimizer.state[flat]
        state["step"].fill_(updates)
        for moment in MOMENTS:
            state[moment].zero_()
