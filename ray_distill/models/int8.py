"""Frozen linear layers in int8, w ~ scale q with one scale per row: a quarter of the bytes of fp32.

q and scale are buffers of integers, which DeepSpeed neither casts nor moves. The weights of torchao and quanto are
subclasses of Tensor, on which DeepSpeed's casts and broadcasts fail (seen with torchao 0.18).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Product(torch.autograd.Function):
    """x w^T. The backward dequantizes w again; autograd would keep w in x's dtype, at two or four times the bytes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, q: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(q, scale)
        return F.linear(x, _weight(q, scale, x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (g,), (q, scale) = gradients, ctx.saved_tensors
        return g @ _weight(q, scale, g.dtype), None, None


def _weight(q: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return (q * scale.view(torch.float32)).to(dtype)


class Int8Linear(nn.Linear):
    """A frozen linear layer [out, in] whose ``weight`` is q, so that peft finds its device and adapts it as any
    layer."""

    scale: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        w = layer.weight.detach().float()
        scale = w.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        self.register_buffer("weight", (w / scale).round().to(torch.int8))
        # The scale's bits as integers: DeepSpeed casts floats to the role's dtype, and a scale in bf16 is off by 0.2 %.
        self.register_buffer("scale", scale.view(torch.int32))
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = _Product.apply(x, self.weight, self.scale)
        return product if self.bias is None else product + self.bias.to(product.dtype)


def quantize(module: nn.Module) -> None:
    """Quantize the linear layers in the repeated blocks of ``module`` to int8; embedders and heads stay as they are."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, nn.Linear) and is_quantized(name):
            parent, _, own = name.rpartition(".")
            setattr(module.get_submodule(parent), own, Int8Linear(layer))


def is_quantized(name: str) -> bool:
    """True where ``quantize`` takes the layer ``name``; the name of a layer in a list of blocks has a number."""
    return any(part.isdigit() for part in name.split("."))
