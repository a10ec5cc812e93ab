"""HunyuanVideo 1.5's attention for ranks that share a clip's tokens."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_hunyuan_video15 import HunyuanVideo15AttnProcessor2_0
from torch import Tensor, nn

from ray_distill.models.sequence import Ranks


class SequenceAttention(HunyuanVideo15AttnProcessor2_0):
    """Joint attention of the text and all tokens of the clip over this rank's heads. Every rank computes the whole
    text.

    The mask [B, 1, 1, tokens] leaves out padding as a key alone: nothing reads what padding attends to, and a mask of
    all pairs, as diffusers makes it, would be whole on every rank."""

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
    ) -> tuple[Tensor, Tensor]:
        assert encoder_hidden_states is not None and attention_mask is not None
        tables = tuple(self.ranks.own(table, 0) for table in image_rotary_emb)
        clip = [layer(hidden_states).unflatten(2, (attn.heads, -1)) for layer in (attn.to_q, attn.to_k, attn.to_v)]
        added = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        text = [layer(encoder_hidden_states).unflatten(2, (attn.heads, -1)) for layer in added]
        clip[:2] = (
            apply_rotary_emb(norm(x), tables, sequence_dim=1)
            for norm, x in zip((attn.norm_q, attn.norm_k), clip[:2], strict=True)
        )
        text[:2] = (norm(x) for norm, x in zip((attn.norm_added_q, attn.norm_added_k), text[:2], strict=True))
        words = encoder_hidden_states.shape[1]
        query, key, value = (self.ranks.to_heads(torch.cat(pair, 1), words) for pair in zip(text, clip, strict=True))
        mask = F.pad(attention_mask.bool(), (0, key.shape[1] - words), value=True)[:, None, None]
        out = dispatch_attention_fn(query, key, value, attn_mask=mask, backend=self._attention_backend)
        out = self.ranks.to_tokens(out, words).flatten(2).to(query.dtype)
        return attn.to_out[1](attn.to_out[0](out[:, words:])), attn.to_add_out(out[:, :words])


def exchange_heads(network: nn.Module, ranks: Ranks) -> None:
    """Put the exchange of heads around the joint attention of each block; each rank refines the whole text."""
    for block in network.transformer_blocks:  # type: ignore[union-attr]
        block.attn.set_processor(SequenceAttention(ranks))
