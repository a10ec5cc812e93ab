"""Wan's attention for ranks that share a clip's tokens: bidirectional, causal and with a cache."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ray_distill.models.sequence import Ranks
from ray_distill.models.wan.causal import CausalAttention, Look, Sight


class SequenceAttention(CausalAttention):
    """Self-attention of all tokens over this rank's heads. The cache keeps only these heads; cross-attention, over the
    whole text, needs no exchange."""

    def __init__(self, layer: int, ranks: Ranks) -> None:
        super().__init__(layer)
        self.ranks = ranks

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
    ) -> Tensor:
        if not isinstance(rotary_emb, Sight):
            cos, sin = rotary_emb
            # Bidirectional: all tokens count as one frame that sees itself.
            rotary_emb = Sight(cos, sin, cos.shape[1], (Look((0, 1), ((0, 1),)),), (), None, None)
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)

    def enter(self, x: Tensor) -> Tensor:
        return self.ranks.to_heads(x)

    def leave(self, x: Tensor) -> Tensor:
        return self.ranks.to_tokens(x)


def exchange_heads(network: nn.Module, ranks: Ranks) -> None:
    """Put the exchange of heads around the self-attention of each block."""
    for layer, block in enumerate(network.blocks):  # type: ignore[arg-type]
        block.attn1.set_processor(SequenceAttention(layer, ranks))
