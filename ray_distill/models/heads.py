"""Discriminator heads on hidden features.

A head is that of DCM (arXiv 2506.03123): linear, group norm, leaky ReLU, a residual layer, one logit per token; its
width is that of its features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_distill.models import family as adapter
from ray_distill.types import Heads, Role

GROUPS, SLOPE = 32, 0.2


class Head(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = nn.Linear(width, width)
        self.norm = nn.GroupNorm(math.gcd(GROUPS, width), width)
        self.mix = nn.Linear(width, width)
        self.judge = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, tokens, D] -> [B, tokens]"""
        h = F.leaky_relu(self.norm(self.enter(x).transpose(1, 2)).transpose(1, 2), SLOPE)
        return self.judge(h + F.leaky_relu(self.mix(h), SLOPE)).squeeze(-1)


class FeatureHeads(nn.Module):
    """``count`` heads; each gets its own features."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head(width) for _ in range(count))

    def forward(self, *features: Tensor) -> Tensor:
        """[B, tokens, D] each -> [B, heads, tokens]"""
        return torch.stack([head(x) for head, x in zip(self.heads, features, strict=True)], dim=1)


@dataclass(frozen=True)
class FeatureDiscriminator:
    """The :class:`ray_distill.types.Discriminator` of FeatureHeads, or of an engine that wraps them."""

    network: Callable[..., Tensor]
    dtype: torch.dtype
    blocks: tuple[int, ...]

    def __call__(self, features: Sequence[Tensor]) -> Tensor:
        return self.network(*(x.to(self.dtype) for x in features)).float()


def random_heads(count: int, width: int, seed: int) -> FeatureHeads:
    """New heads with weights drawn from ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FeatureHeads(count, width)


def head_blocks(role: Role, heads: Heads, family: str, architecture: Mapping[str, Any]) -> tuple[tuple[int, ...], int]:
    """(blocks on which ``role`` has heads, width D of their outputs), by ``architecture``, the transformer
    configuration of the role ``heads.of``.

    ValueError for a block that does not exist, or where there is none.
    """
    count, width = adapter(family).features(architecture)
    blocks = tuple(heads.blocks(count))
    if not blocks or min(blocks) < 0 or max(blocks) >= count:
        raise ValueError(f"{role}: its heads ask for blocks {blocks} of {heads.of}, which has blocks 0 to {count - 1}")
    return blocks, width
