"""Start fp32 master weights at the published fp32 weights, not at their bf16 rounding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ray_distill.models.weights import Weights

SOURCE = "published"  # an attribute of a parameter, from its filling to the start of its engine
Read = Callable[[], Tensor]


def remember(parameter: nn.Parameter, weights: Weights, name: str) -> None:
    """Note how the published value of ``parameter`` is read again, where bf16 has rounded it."""
    if parameter.dtype == torch.bfloat16 and weights.dtype(name) != torch.bfloat16:
        setattr(parameter, SOURCE, lambda: weights[name])


def exact(module: nn.Module) -> list[tuple[nn.Parameter, Read]]:
    """(parameter, how its exact value is read) of each trained parameter of which an engine will see a bf16 rounding:
    what :func:`remember` noted, which goes, or the value itself where it still is fp32 (heads, random weights)."""
    noted = [(p, vars(p).pop(SOURCE, None)) for p in module.parameters()]
    return [
        (p, read or p.detach().clone) for p, read in noted if p.requires_grad and (read or p.dtype == torch.float32)
    ]
