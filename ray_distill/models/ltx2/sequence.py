"""LTX-2's attention for ranks that share the tokens of a clip's picture. Every rank computes the whole sound, which has
few tokens: its self-attention, and the picture's attention to it, need no exchange."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_ltx2 import (
    LTX2AudioVideoAttnProcessor,
    apply_interleaved_rotary_emb,
    apply_split_rotary_emb,
)
from torch import Tensor, nn

from ray_distill.models.sequence import Ranks

ROTATE = {"interleaved": apply_interleaved_rotary_emb, "split": apply_split_rotary_emb}


class SequenceAttention(LTX2AudioVideoAttnProcessor):
    """Attention to all tokens of the picture over this rank's heads: of the picture itself, or of the sound.

    The tables of positions are this rank's, so that the rotation comes before the exchange."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        query_rotary_emb: Any = None,
        key_rotary_emb: Any = None,
    ) -> Tensor:
        assert attn.to_gate_logits is None and attention_mask is None, "check refuses versions other than 2.0"
        from_sound = encoder_hidden_states is not None
        picture = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        rotate = ROTATE[attn.rope_type]
        query = rotate(attn.norm_q(attn.to_q(hidden_states)), query_rotary_emb)
        key = rotate(attn.norm_k(attn.to_k(picture)), key_rotary_emb if from_sound else query_rotary_emb)
        query, key, value = (x.unflatten(2, (attn.heads, -1)) for x in (query, key, attn.to_v(picture)))
        query = self.ranks.own(query, 2) if from_sound else self.ranks.to_heads(query)
        key, value = self.ranks.to_heads(key), self.ranks.to_heads(value)
        out = dispatch_attention_fn(query, key, value, backend=self._attention_backend)
        if from_sound:
            out = self.ranks.gather(out.transpose(1, 2)).transpose(1, 2)
        else:
            out = self.ranks.to_tokens(out)
        return attn.to_out[1](attn.to_out[0](out.flatten(2, 3).to(query.dtype)))


def exchange_heads(network: nn.Module, ranks: Ranks) -> None:
    """Put the exchange of heads around all attention to the picture's tokens in each block."""
    for block in network.transformer_blocks:  # type: ignore[union-attr]
        block.attn1.set_processor(SequenceAttention(ranks))
        block.video_to_audio_attn.set_processor(SequenceAttention(ranks))
