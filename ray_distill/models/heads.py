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
    """Heads on ``count`` blocks, one for each of a block's outputs, whose ``widths`` all blocks share."""

    def __init__(self, count: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.outputs = len(widths)
        self.heads = nn.ModuleList(Head(width) for _ in range(count) for width in widths)

    def forward(self, *features: Tensor) -> Tensor:
        """[B, tokens, D] each, block by block -> [B, count, tokens]: the tokens of a block's outputs, in order."""
        logits = [head(x) for head, x in zip(self.heads, features, strict=True)]
        blocks = (logits[first : first + self.outputs] for first in range(0, len(logits), self.outputs))
        return torch.stack([torch.cat(block, dim=1) for block in blocks], dim=1)


@dataclass(frozen=True)
class FeatureDiscriminator:
    """The :class:`ray_distill.types.Discriminator` of FeatureHeads, or of an engine that wraps them."""

    network: Callable[..., Tensor]
    dtype: torch.dtype
    blocks: tuple[int, ...]

    def __call__(self, features: Sequence[Tensor]) -> Tensor:
        return self.network(*(x.to(self.dtype) for x in features)).float()


def random_heads(count: int, widths: Sequence[int], seed: int) -> FeatureHeads:
    """New heads with weights drawn from ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FeatureHeads(count, widths)


def head_blocks(
    role: Role, heads: Heads, family: str, architecture: Mapping[str, Any]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(blocks on which ``role`` has heads, width D of each of a block's outputs), by ``architecture``, the transformer
    configuration of the role ``heads.of``.

    ValueError for a block that does not exist, or where there is none.
    """
    count, widths = adapter(family).features(architecture)
    blocks = tuple(heads.blocks(count))
    if not blocks or min(blocks) < 0 or max(blocks) >= count:
        raise ValueError(f"{role}: its heads ask for blocks {blocks} of {heads.of}, which has blocks 0 to {count - 1}")
    return blocks, widths
