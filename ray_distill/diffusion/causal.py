"""Rollouts chunk by chunk of a causal network (Self-Forcing, arXiv 2506.08009), for training and sampling."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ray_distill.diffusion.flow import add_noise
from ray_distill.types import Cache, Chunks, Cond, Denoiser


def longest(frames: int, chunks: Chunks) -> int:
    """The most latent frames up to ``frames`` that whole chunks make; 0 where not one chunk fits."""
    first = 1 if chunks.independent_first else 0
    return max(0, first + (frames - first) // chunks.frames * chunks.frames)


def chunk_lengths(frames: int, chunks: Chunks) -> tuple[int, ...]:
    """The latent frames of each chunk of a clip of ``frames``; ValueError unless whole chunks make it."""
    below = longest(frames, chunks)
    if frames < 1 or below != frames:
        near = [count for count in (below, below + chunks.frames) if count > 0]
        latent, pixel = (" or ".join(str(of(n)) for n in near) for of in (int, lambda n: 4 * n - 3))
        other = Chunks(chunks.frames, not chunks.independent_first)
        turn = f"; or set independent_first_frame = {str(other.independent_first).lower()}"
        raise ValueError(
            f"num_frame_per_block = {chunks.frames}: a clip of {frames} latent frames is no "
            f"{'1 + ' if chunks.independent_first else ''}k x {chunks.frames}; use {latent} "
            f"(data.frames = {pixel} with Wan's VAE){turn if longest(frames, other) == frames > 0 else ''}"
        )
    first = (1,) if chunks.independent_first else ()
    return first + (chunks.frames,) * ((frames - len(first)) // chunks.frames)


def by_chunks(
    denoiser: Denoiser,
    chunks: Chunks,
    frames: int,
    cond: Cond,
    eps: Callable[[], Tensor],
    denoise_chunk: Callable[[Denoiser, int, slice], Tensor],
) -> Tensor:
    """x_0 [B, C, T, H, W] of ``frames`` = T latent frames, one chunk after the other.

    ``denoise_chunk(see, number, where)`` makes chunk ``number``, the frames ``where`` of the clip, with ``see``: the
    denoiser that also sees the finished chunks. In between one forward without gradient remembers the finished chunk,
    at ``chunks.context_timestep``, so no gradient reaches an earlier chunk. ``eps()`` [B, C, T, H, W] is the noise of
    that forward, asked for only where there is some.
    """
    cache, clip, start, level = Cache(), [], 0, chunks.context_timestep / 1000
    for number, length in enumerate(chunk_lengths(frames, chunks)):
        where = slice(start, start + length)
        clip.append(denoise_chunk(partial(denoiser, cache=cache), number, where))
        start += length
        if start == frames:
            break
        with torch.no_grad():
            x_c, sigma = clip[-1], clip[-1].new_empty(len(clip[-1]), dtype=torch.float32)
            if level > 0:
                x_c = add_noise(x_c, eps()[:, :, where], sigma.fill_(level))
            denoiser(x_c, sigma.fill_(level), cond, cache=cache, remember=True)
    return torch.cat(clip, dim=2)
