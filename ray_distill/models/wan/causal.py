"""Causal attention for diffusers' WanTransformer3DModel, in one forward or with a cache.

Frames see the frames of their own chunk and of earlier chunks (CausVid, arXiv 2412.07772): all of them, or a window
with a sink. Weights, their names and the class stay Wan's own, so that a causal student starts from a bidirectional
checkpoint, and is exported as an ordinary folder. A :class:`Sight` says what one call may see. It takes the place of
the rotary embedding, which the blocks pass to their attention; gradient checkpointing keeps it with a block's inputs,
so that a recomputed block sees the same past.

This file imports only torch and diffusers, since exports copy it beside the weights of a causal student.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor

if TYPE_CHECKING:
    from ray_distill.types import Cache, Window

KeyValue = tuple[Tensor, Tensor]
Run = tuple[int, int]
"""A run of frames (start, end), without the end."""


@dataclass(frozen=True)
class Look:
    """Visible frames of a query: the frames ``queries`` of a call see the frames ``keys`` of past and call, laid end to
    end. The keys have the positions 0, 1, ... in their order; the queries are the last keys, and have the last
    positions."""

    queries: Run
    keys: tuple[Run, ...]

    @property
    def positions(self) -> int:
        return sum(end - start for start, end in self.keys)


def visible_frames(end: int, window: Window | None) -> list[int]:
    """The frames that a chunk ending before frame ``end`` sees, including its own: at most ``window.frames``, of which
    ``window.sink`` are the clip's first and the others the latest."""
    if window is None or end <= window.frames:
        return list(range(end))
    return [*range(window.sink), *range(end - (window.frames - window.sink), end)]


def looks(
    chunks: Sequence[int],
    window: Window | None = None,
    before: int = 0,
    past: Iterable[Run] = (),
    history: bool = False,
) -> tuple[Look, ...]:
    """One Look per chunk of a call with ``chunks`` (lengths) that follows ``before`` frames of its clip; of these the
    runs ``past`` are cached.

    With ``history`` (teacher forcing) the call has its frames twice, first clean and then noised: a clean chunk sees
    the clean chunks up to itself, and a noised chunk sees the earlier clean chunks and itself.
    """
    kept = [frame for run in past for frame in range(*run)]
    frames = sum(chunks)
    place = {frame: i for i, frame in enumerate([*kept, *range(before, before + frames)])}
    views = []
    for half in (0, frames) if history else (0,):
        for start, end in pairwise(accumulate(chunks, initial=before)):
            shown = [frame for frame in visible_frames(end, window) if frame < start]
            assert place.keys() >= set(shown), f"the cache lacks frames {sorted(set(shown) - place.keys())}"
            earlier = [place[frame] for frame in shown]
            first = half + start - before
            own = range(len(kept) + first, len(kept) + first + end - start)
            views.append(Look((first, first + end - start), runs([*earlier, *own])))
    return tuple(views)


def runs(places: Sequence[int]) -> tuple[Run, ...]:
    """``places`` as runs of consecutive numbers."""
    starts = [i for i, place in enumerate(places) if i == 0 or place != places[i - 1] + 1]
    return tuple((places[a], places[b - 1] + 1) for a, b in pairwise([*starts, len(places)]))


@dataclass(frozen=True, eq=False)
class Sight:
    """Visibility in one call: ``cos``, ``sin`` [1, tokens, 1, D] of the positions from 0 on, with ``tokens``
    per frame; its ``looks``; and, for each ``past`` chunk, the keys and values [B, tokens, heads, D] by layer.

    Without a window a frame has the same position in all looks: keys are stored rotated, and ``own`` rotates the keys
    of this call. With a window keys are stored unrotated, and each look rotates them. ``kept`` collects the call's keys
    and values.
    """

    cos: Tensor
    sin: Tensor
    tokens: int
    looks: tuple[Look, ...]
    past: tuple[tuple[KeyValue, ...], ...]
    own: tuple[Tensor, Tensor] | None
    kept: list[KeyValue] | None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, backend: Any) -> Tensor:
        """Attention [B, tokens, heads, D] of ``query``, ``key`` and ``value``, each of this shape and not rotated."""
        if self.own is not None:
            key = rotate(key, *self.own)
        if self.kept is not None:
            self.kept.append((key, value))
        key = torch.cat([*(chunk[layer][0] for chunk in self.past), key], dim=1)
        value = torch.cat([*(chunk[layer][1] for chunk in self.past), value], dim=1)
        # Chunk by chunk: a mask of 32,760 x 32,760 tokens would take a GiB, and rule out the fast kernels.
        return torch.cat([self._look(look, query, key, value, backend) for look in self.looks], dim=1)

    def _look(self, look: Look, query: Tensor, key: Tensor, value: Tensor, backend: Any) -> Tensor:
        query, key, value = (
            self._frames(query, look.queries),
            self._frames(key, *look.keys),
            self._frames(value, *look.keys),
        )
        start, end = key.shape[1] - query.shape[1], key.shape[1]
        query = rotate(query, self.cos[:, start:end], self.sin[:, start:end])
        if self.own is None:
            key = rotate(key, self.cos[:, :end], self.sin[:, :end])
        return dispatch_attention_fn(query, key, value, backend=backend)

    def _frames(self, x: Tensor, *chosen: Run) -> Tensor:
        parts = [x[:, self.tokens * start : self.tokens * end] for start, end in chosen]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class CausalAttention(WanAttnProcessor):
    """Wan's self-attention, restricted by a :class:`Sight`; without one it is diffusers' own."""

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
        query = self.enter(attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1)))
        key = self.enter(attn.norm_k(attn.to_k(hidden_states)).unflatten(2, (attn.heads, -1)))
        value = self.enter(attn.to_v(hidden_states).unflatten(2, (attn.heads, -1)))
        out = self.leave(sight.attend(self.layer, query, key, value, self._attention_backend))
        return attn.to_out[1](attn.to_out[0](out.flatten(2, 3).type_as(query)))

    def enter(self, x: Tensor) -> Tensor:
        """Queries, keys or values [B, tokens, heads, D] for attention; sequence parallelism overrides this method."""
        return x

    def leave(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`enter`, for the output of attention."""
        return x


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate ``x`` [B, tokens, heads, D], whose neighbouring channels form pairs, by the positions' ``cos`` and
    ``sin``, which may be on another GPU."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = (each.to(x.device) for each in (cos[..., 0::2], sin[..., 1::2]))
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).type_as(x)


@contextmanager
def causal_attention(
    network: Any,
    frames: int,
    chunks: Sequence[int] = (),
    cache: Cache | None = None,
    remember: bool = False,
    window: Window | None = None,
    history: bool = False,
) -> Iterator[None]:
    """Make one call of ``network`` within the block causal. ``network`` is a WanTransformer3DModel or an engine around
    one, and the call has ``frames`` latent frames. The frames see each other and the ``cache`` as ``chunks`` say,
    within ``window``, or within the cache's window where there is a cache. ``remember`` then adds the frames to the
    cache, and drops the chunks that no later chunk of this length sees. With ``history`` the call has its frames twice,
    as in :func:`looks`. ValueError where ``chunks`` do not add up to ``frames``.
    """
    if not chunks and cache is None:
        yield
        return
    chunks = tuple(chunks) or (frames,)
    if sum(chunks) != frames or min(chunks) < 1:
        raise ValueError(f"chunks = {chunks} must be positive and add up to the {frames} latent frames given")
    assert cache is None or not history, "teacher forcing sees its history in the same call"
    for layer, block in enumerate(network.blocks):
        if not isinstance(block.attn1.processor, CausalAttention):
            block.attn1.set_processor(CausalAttention(layer))
    before, past = (cache.frames, dict(cache.chunks)) if cache is not None else (0, {})
    window = cache.window if cache is not None else window
    views = looks(chunks, window, before, past, history)
    positions = max(look.positions for look in views)
    kept: list[KeyValue] | None = [] if remember else None

    def widen(_: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        """Give the rotary embedding, which reads only a shape, as many positions as the longest look has."""
        return (args[0][:, :, :1].expand(-1, -1, positions, -1, -1),)

    def look(_: Any, args: Any, rotary: tuple[Tensor, Tensor]) -> Sight:
        tokens = rotary[0].shape[1] // positions
        cos, sin = (each[:, tokens * (positions - frames) :].repeat(1, 1 + history, 1, 1) for each in rotary)
        own = None if window is not None else (cos, sin)
        return Sight(*rotary, tokens, views, tuple(past.values()), own, kept)

    hooks = network.rope.register_forward_pre_hook(widen), network.rope.register_forward_hook(look)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    if cache is not None and kept is not None:
        keep(cache, frames, tuple(kept))


def keep(cache: Cache, frames: int, layers: tuple[KeyValue, ...]) -> None:
    """Add a chunk of ``frames`` with its keys and values, and drop the chunks that no later chunk of this length
    sees."""
    cache.chunks[cache.frames, cache.frames + frames] = layers
    cache.frames += frames
    later = set(visible_frames(cache.frames + frames, cache.window))
    for run in [run for run in cache.chunks if later.isdisjoint(range(*run))]:
        del cache.chunks[run]
