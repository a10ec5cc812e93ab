"""Causal attention for diffusers' WanTransformer3DModel, in one masked forward or with a cache.

Frames see the frames of their own chunk and of all chunks before it (CausVid, arXiv 2412.07772). Weights, their names
and the class stay Wan's own: a bidirectional checkpoint starts a causal student, and a causal student is exported as
an ordinary folder. What one call may see rides in the place of its rotary embedding, which the blocks hand to their
attention; gradient checkpointing keeps it with a block's inputs, so a recomputed block sees the same past.

This file needs torch and diffusers alone: it lies beside the weights of an exported causal student.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor

if TYPE_CHECKING:
    from ray_distill.types import Cache

KeyValue = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Sight:
    """What one call sees: ``cos``, ``sin`` [1, tokens, 1, D] of its positions in the clip, the tokens at which its
    chunks end, and of each ``past`` chunk the keys and values [B, tokens, heads, D] by layer. ``seen`` collects its own
    where they are to be kept."""

    cos: Tensor
    sin: Tensor
    ends: tuple[int, ...]
    past: tuple[tuple[KeyValue, ...], ...]
    seen: list[KeyValue] | None


class CausalAttention(WanAttnProcessor):
    """Wan's self-attention with the sight of :class:`Sight`; without one it is diffusers' own."""

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
    ) -> Tensor:
        sight = rotary_emb
        if not isinstance(sight, Sight):
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        query = rotate(self.enter(attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))), sight)
        key = rotate(self.enter(attn.norm_k(attn.to_k(hidden_states)).unflatten(2, (attn.heads, -1))), sight)
        value = self.enter(attn.to_v(hidden_states).unflatten(2, (attn.heads, -1)))
        if sight.seen is not None:
            sight.seen.append((key, value))
        key = torch.cat([*(chunk[self.layer][0] for chunk in sight.past), key], dim=1)
        value = torch.cat([*(chunk[self.layer][1] for chunk in sight.past), value], dim=1)
        before = key.shape[1] - query.shape[1]
        # A chunk at a time: a mask of 32,760 x 32,760 tokens would weigh a GiB and rule out the fast kernels.
        out = [
            dispatch_attention_fn(
                query[:, start:end], key[:, : before + end], value[:, : before + end], backend=self._attention_backend
            )
            for start, end in pairwise((0, *sight.ends))
        ]
        hidden_states = self.leave(torch.cat(out, dim=1)).flatten(2, 3).type_as(query)
        return attn.to_out[1](attn.to_out[0](hidden_states))

    def enter(self, x: Tensor) -> Tensor:
        """Queries, keys or values [B, tokens, heads, D] as attention takes them; sequence parallelism overrides it."""
        return x

    def leave(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`enter`, for what attention returns."""
        return x


def rotate(x: Tensor, sight: Sight) -> Tensor:
    """``x`` [B, tokens, heads, D], of which neighbours are pairs, turned by its positions."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = sight.cos[..., 0::2], sight.sin[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).type_as(x)


@contextmanager
def causal_attention(
    network: Any, frames: int, chunks: Sequence[int] = (), cache: Cache | None = None, remember: bool = False
) -> Iterator[None]:
    """Inside, one call of ``network`` (a WanTransformer3DModel, or an engine around one) on ``frames`` latent frames
    sees what ``chunks`` and ``cache`` say; ``remember`` then adds the frames to the cache.

    ValueError where ``chunks`` do not add up to ``frames``.
    """
    if not chunks and cache is None:
        yield
        return
    chunks = tuple(chunks) or (frames,)
    if sum(chunks) != frames or min(chunks) < 1:
        raise ValueError(f"chunks = {chunks} must be positive and add up to the {frames} latent frames given")
    assert not (remember and torch.is_grad_enabled()), "a chunk is remembered without gradient"
    for layer, block in enumerate(network.blocks):
        if not isinstance(block.attn1.processor, CausalAttention):
            block.attn1.set_processor(CausalAttention(layer))
    before, past = (cache.frames, tuple(cache.chunks)) if cache is not None else (0, ())
    seen: list[KeyValue] | None = [] if remember else None

    def look(rope: Any, args: tuple[Tensor], _: Any) -> Sight:
        x = args[0][:, :, :1]
        # Only the shape is read: positions from the first frame of the clip on, of which ours are the last.
        cos, sin = rope.forward(x.expand(-1, -1, before + frames, -1, -1))
        tokens = cos.shape[1] // (before + frames)
        ends = tuple(tokens * end for end in accumulate(chunks))
        return Sight(cos[:, -ends[-1] :], sin[:, -ends[-1] :], ends, past, seen)

    hook = network.rope.register_forward_hook(look)
    try:
        yield
    finally:
        hook.remove()
    if cache is not None and seen is not None:
        cache.chunks.append(tuple(seen))
        cache.frames += frames
