"""The optimizer of a trained role under ZeRO-0, where DeepSpeed's engine only averages gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class WholeAdamW:
    """AdamW on whole fp32 weights, the same on each rank, with the preparation of DeepSpeed's sharded optimizers: skip
    a descent if the gradients' norm is not finite, and clip to ``clip_norm`` (0: off)."""

    def __init__(self, adamw: torch.optim.AdamW, clip_norm: float) -> None:
        self.optimizer, self._clip_norm = adamw, clip_norm
        self.overflow = False
        self._global_grad_norm = 0.0  # the engine expects this name
        for parameter in self.parameters:
            parameter.adamw = adamw  # type: ignore[attr-defined]

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def step(self) -> None:
        norm = nn.utils.clip_grad_norm_(self.parameters, self._clip_norm or float("inf"))
        self._global_grad_norm = norm.item()
        self.overflow = not norm.isfinite()
        if not self.overflow:
            self.optimizer.step()


def is_whole(parameter: nn.Parameter) -> bool:
    """True if every rank holds all of a trained parameter and of its moments."""
    return hasattr(parameter, "adamw")


def state_of(parameter: nn.Parameter) -> dict[str, Any]:
    """AdamW's state of a whole parameter."""
    state: dict[str, Any] = parameter.adamw.state[parameter]  # type: ignore[attr-defined]
    return state
