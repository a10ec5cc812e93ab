"""Roll out a causal network chunk by chunk, for training and sampling (Self-Forcing, arXiv 2506.08009)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ray_distill.diffusion.flow import add_noise
from ray_distill.types import Cache, Chunks, Cond, Denoiser, History, Prediction, Sampler, Window


def longest(frames: int, chunks: Chunks) -> int:
    """Largest number of latent frames up to ``frames`` in whole chunks; 0 if not one chunk fits."""
    first = 1 if chunks.independent_first else 0
    return max(0, first + (frames - first) // chunks.frames * chunks.frames)


def chunk_lengths(frames: int, chunks: Chunks, pixel: Callable[[int], int] | None = None) -> tuple[int, ...]:
    """Latent frames of each chunk of a clip of ``frames``; ValueError if whole chunks do not add up to it.

    ``pixel`` is the number of frames of a clip by that of its latent frames, where the codec is known: the error names
    the nearest data.frames, too."""
    below = longest(frames, chunks)
    if frames < 1 or below != frames:
        near = [count for count in (below, below + chunks.frames) if count > 0]
        latent = " or ".join(map(str, near))
        clips = f" (data.frames = {' or '.join(str(pixel(n)) for n in near)})" if pixel else ""
        other = Chunks(chunks.frames, not chunks.independent_first)
        turn = f"; or set independent_first_frame = {str(other.independent_first).lower()}"
        raise ValueError(
            f"num_frame_per_block = {chunks.frames}: the clip has {frames} latent frames, which are not "
            f"{'1 + ' if chunks.independent_first else ''}k x {chunks.frames}; use "
            f"{latent}{clips}{turn if longest(frames, other) == frames > 0 else ''}"
        )
    first = (1,) if chunks.independent_first else ()
    return first + (chunks.frames,) * ((frames - len(first)) // chunks.frames)


DenoiseChunk = Callable[[Denoiser, int, slice], Tensor]


def stream(
    denoiser: Denoiser,
    chunks: Chunks,
    lengths: Iterable[int],
    cond: Cond,
    eps: Callable[[slice], Tensor],
    denoise_chunk: DenoiseChunk,
    cache: Cache | None = None,
    last: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yield x_0 [B, C, t, H, W] chunk by chunk, of ``lengths`` t; a window bounds the memory.

    ``denoise_chunk(see, number, where)`` makes chunk ``number``, the frames ``where`` of the clip, with ``see``, the
    denoiser that also sees the finished chunks. After each chunk one forward without gradient adds it to the cache at
    ``chunks.context_timestep``, so no gradient reaches an earlier chunk. If the context has noise, ``eps(where)``
    [B, C, t, H, W] gives the noise of that forward.

    With ``last`` the clip continues after that chunk and the earlier ones in the ``cache``; new chunks then count from
    1.
    """
    cache = Cache(window=chunks.window) if cache is None else cache
    x = last
    where = slice(cache.frames, cache.frames + (0 if x is None else x.shape[2]))
    for number, length in enumerate(lengths, 0 if x is None else 1):
        if x is not None:
            remember(denoiser, x, chunks, cond, cache, partial(eps, where))
        where = slice(where.stop, where.stop + length)
        x = denoise_chunk(partial(denoiser, cache=cache), number, where)
        yield x


@torch.no_grad()
def remember(
    denoiser: Denoiser, x: Tensor, chunks: Chunks, cond: Cond, cache: Cache, eps: Callable[[], Tensor]
) -> None:
    """Add the finished chunk ``x`` to the ``cache``, at the level of ``chunks.context_timestep``."""
    sigma = x.new_full((len(x),), chunks.context_timestep / 1000, dtype=torch.float32)
    if chunks.context_timestep > 0:
        x = add_noise(x, eps(), sigma)
    denoiser(x, sigma, cond, cache=cache, remember=True)


def of_chunk(sampler: Sampler, number: int) -> Sampler:
    """Recipe of chunk ``number``; the first may have its own steps."""
    first = sampler.chunks.first_timesteps if sampler.chunks and number == 0 else ()
    return replace(sampler, timesteps=first) if first else sampler


def most_steps(sampler: Sampler) -> int:
    """Largest number of steps of a chunk, which also numbers the noise of the context."""
    return max(len(sampler.timesteps), len(of_chunk(sampler, 0).timesteps))


def teacher_forced(
    denoiser: Denoiser, history: History, lengths: tuple[int, ...], window: Window | None = None
) -> Denoiser:
    """``denoiser`` under teacher forcing: in one masked forward a chunk (of ``lengths``) sees itself and the earlier
    chunks of ``history``. If guidance doubles the batch, both halves see the history.
    """

    def see(x_t: Tensor, sigma: Tensor, cond: Cond, **rest: Any) -> Prediction:
        times = len(x_t) // len(history.x)
        past = History(history.x.repeat(times, 1, 1, 1, 1), history.sigma.repeat(times, 1))
        return denoiser(x_t, sigma, cond, chunks=lengths, history=past, window=window, **rest)

    return see


def clean_history(x_0: Tensor) -> History:
    """The history of the clip ``x_0`` [B, C, T, H, W] itself."""
    return History(x_0, x_0.new_zeros(len(x_0), x_0.shape[2], dtype=torch.float32))


def by_frame(by_chunk: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Values [B, T] by frame from values [B, chunks]: the frames of a chunk share its value."""
    return by_chunk.repeat_interleave(torch.tensor(lengths, device=by_chunk.device), dim=1)
