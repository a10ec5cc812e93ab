"""Start fp32 master weights at the published fp32 weights, not at their bf16 rounding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ray_distill.models.loading import RandomWeights
from ray_distill.models.weights import Weights

SOURCE = "published"  # an attribute of a parameter, from its filling to the start of its engine
Read = Callable[[], Tensor]


def remember(parameter: nn.Parameter, weights: Weights | RandomWeights, name: str) -> None:
    """Note a reader of the published value of ``parameter``, if bf16 has rounded it."""
    if parameter.dtype == torch.bfloat16 and weights.dtype(name) != torch.bfloat16:
        setattr(parameter, SOURCE, lambda: weights[name])


def exact(module: nn.Module) -> list[tuple[nn.Parameter, Read]]:
    """Yield (parameter, reader of its exact value) for each trained parameter that an engine will see rounded to bf16:
    the reader that :func:`remember` noted, which is removed, or the value itself if it still is fp32 (heads, random
    weights)."""
    noted = [(p, vars(p).pop(SOURCE, None)) for p in module.parameters()]
    return [
        (p, read or p.detach().clone) for p, read in noted if p.requires_grad and (read or p.dtype == torch.float32)
    ]
