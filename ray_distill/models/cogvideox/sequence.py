"""CogVideoX's attention for ranks that share a clip's tokens."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn

from ray_distill.models.sequence import Ranks


class SequenceAttention(CogVideoXAttnProcessor2_0):
    """Joint attention of the text and all tokens of the clip over this rank's heads. Every rank computes the whole
    text."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> tuple[Tensor, Tensor]:
        words = encoder_hidden_states.shape[1]
        x = torch.cat([encoder_hidden_states, hidden_states], 1)
        query, key, value = (layer(x).unflatten(2, (attn.heads, -1)) for layer in (attn.to_q, attn.to_k, attn.to_v))
        query = self._rotate(query if attn.norm_q is None else attn.norm_q(query), words, image_rotary_emb)
        key = self._rotate(key if attn.norm_k is None else attn.norm_k(key), words, image_rotary_emb)
        query, key, value = (self.ranks.to_heads(x, words).transpose(1, 2) for x in (query, key, value))
        out = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        out = attn.to_out[1](attn.to_out[0](self.ranks.to_tokens(out, words).flatten(2)))
        return out[:, words:], out[:, :words]

    def _rotate(self, x: Tensor, words: int, tables: tuple[Tensor, Tensor] | None) -> Tensor:
        """``x`` [B, words + tokens / size, heads, D] with this rank's tokens rotated by their positions."""
        if tables is None:
            return x
        own = tuple(self.ranks.own(table, 0) for table in tables)
        return torch.cat([x[:, :words], apply_rotary_emb(x[:, words:], own, sequence_dim=1)], 1)


def exchange_heads(network: nn.Module, ranks: Ranks) -> None:
    """Put the exchange of heads around the attention of each block."""
    for block in network.transformer_blocks:  # type: ignore[union-attr]
        block.attn1.set_processor(SequenceAttention(ranks))
