"""LTX-Video's attention for ranks that share a clip's tokens."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_ltx import LTXVideoAttnProcessor, apply_rotary_emb
from torch import Tensor, nn

from ray_distill.models.sequence import Ranks


class SequenceAttention(LTXVideoAttnProcessor):
    """Self-attention of all tokens over this rank's heads.

    LTX rotates the channels of all heads at once, so the rotation comes before the exchange, by this rank's piece of
    the tables."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> Tensor:
        tables = tuple(self.ranks.own(table) for table in image_rotary_emb)
        query = apply_rotary_emb(attn.norm_q(attn.to_q(hidden_states)), tables)
        key = apply_rotary_emb(attn.norm_k(attn.to_k(hidden_states)), tables)
        each = (x.unflatten(2, (attn.heads, -1)) for x in (query, key, attn.to_v(hidden_states)))
        out = dispatch_attention_fn(*map(self.ranks.to_heads, each), backend=self._attention_backend)
        out = self.ranks.to_tokens(out).flatten(2, 3).to(query.dtype)
        return attn.to_out[1](attn.to_out[0](out))


def exchange_heads(network: nn.Module, ranks: Ranks) -> None:
    """Put the exchange of heads around the self-attention of each block."""
    for block in network.transformer_blocks:  # type: ignore[union-attr]
        block.attn1.set_processor(SequenceAttention(ranks))
