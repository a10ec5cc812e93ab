"""Sample from noise by a recipe, "sde" or "ode", in all or some of its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ray_distill.diffusion.causal import chunk_lengths, most_steps, of_chunk, stream
from ray_distill.diffusion.flow import add_noise, eps_from_velocity, x_0_from_velocity
from ray_distill.diffusion.guidance import both_prompts, by_modality, guided_velocity
from ray_distill.types import Cond, Denoiser, Experts, Networks, Prediction, Sampler


def denoise(
    denoiser: Denoiser,
    sampler: Sampler,
    x_t: Tensor,
    cond: Cond,
    uncond: Cond | None,
    noise: Callable[[int], Tensor],
    start: int,
    stop: int,
) -> Tensor:
    """Take steps start..stop-1 from ``x_t`` at ``timesteps[start]``; returns x_t at ``timesteps[stop]``, or x_0 after
    the last step. ``noise(i)`` is the fresh noise after step i ("sde" only), shaped like ``x_t``."""
    sigmas = [t / 1000 for t in sampler.timesteps] + [0.0]
    for i in range(start, stop):
        sigma, sigma_next = (x_t.new_full((len(x_t),), s, dtype=torch.float32) for s in (sigmas[i], sigmas[i + 1]))
        scale = by_modality(sampler.scale(sampler.timesteps[i]), sampler.audio_guidance_scale, x_t, cond)
        v = guided_velocity(denoiser, x_t, sigma, cond, uncond, scale)
        x_0 = x_0_from_velocity(x_t, v, sigma)
        if sigmas[i + 1] == 0.0:
            return x_0
        eps = noise(i) if sampler.kind == "sde" else eps_from_velocity(x_t, v, sigma)
        x_t = add_noise(x_0, eps, sigma_next)
    return x_t


def halting(
    timesteps: Sequence[float], levels: Sequence[float], guidance: float, audio_guidance: float | None = None
) -> Sampler:
    """Recipe of Euler's solver on ``timesteps`` that also halts at each of ``levels``."""
    steps = tuple(sorted({*timesteps, *levels}, reverse=True))
    return Sampler(steps, "ode", guidance, audio_guidance_scale=audio_guidance)


@torch.no_grad()
def trajectory(
    denoiser: Denoiser, sampler: Sampler, x_T: Tensor, cond: Cond, uncond: Cond | None, levels: Sequence[float]
) -> list[Tensor]:
    """States from ``x_T`` at each of ``levels``, where ``sampler`` halts, and x_0, each [B, C, T, H, W]."""
    halts = [sampler.timesteps.index(level) for level in levels]
    x, states = x_T, []
    for start, stop in zip([0, *halts], [*halts, len(sampler.timesteps)], strict=True):
        x = denoise(denoiser, sampler, x, cond, uncond, lambda i: x_T, start, stop)  # "ode" adds no noise
        states.append(x)
    return states


def simulate(
    denoiser: Denoiser,
    sampler: Sampler,
    x_T: Tensor,
    cond: Cond,
    noise: Callable[[int], Tensor],
    exit_step: int,
    grad: bool,
) -> Tensor:
    """Backward simulation (DMD2, arXiv 2405.14867): steps before ``exit_step`` without gradient, then the
    x_0-prediction of that step, with gradient if ``grad``; no later step. Unguided, shaped like ``x_T``."""
    x_t, v, sigma = exit_at(denoiser, sampler, x_T, cond, noise, exit_step, grad)
    with torch.set_grad_enabled(grad):
        return x_0_from_velocity(x_t, v, sigma)


def exit_at(
    denoiser: Denoiser,
    sampler: Sampler,
    x_T: Tensor,
    cond: Cond,
    noise: Callable[[int], Tensor],
    exit_step: int,
    grad: bool,
    start: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """(x_t, v, sigma [B]) of ``exit_step``, the velocity with gradient if ``grad``. ``x_T`` is the state at the step
    ``start``; the steps in between run without gradient. Unguided."""
    with torch.no_grad():
        x_t = denoise(denoiser, sampler, x_T, cond, None, noise, start, exit_step)
    sigma = x_t.new_full((len(x_t),), sampler.timesteps[exit_step] / 1000, dtype=torch.float32)
    with torch.set_grad_enabled(grad):
        return x_t, denoiser(x_t, sigma, cond).velocity, sigma


def predictions(denoiser: Denoiser, sampler: Sampler, x_T: Tensor, cond: Cond, exit_step: int) -> list[Tensor]:
    """The x_0-predictions [B, C, T, H, W] of an "ode" rollout's steps 0..``exit_step``, the last as :func:`simulate`
    has it. Each has the gradient of its own call: the states between carry none. Unguided."""
    each: list[Tensor] = []
    x_t = x_T
    for i in range(exit_step + 1):
        x_t, v, sigma = exit_at(denoiser, sampler, x_t, cond, lambda _: x_T, i, True, start=i)
        each.append(x_0_from_velocity(x_t, v, sigma))
        if i < exit_step:
            still = v.detach()
            sigma_next = torch.full_like(sigma, sampler.timesteps[i + 1] / 1000)
            x_t = add_noise(x_0_from_velocity(x_t, still, sigma), eps_from_velocity(x_t, still, sigma), sigma_next)
    return each


def by_level(experts: Experts, networks: Networks) -> Denoiser:
    """Join two experts in one denoiser: each call, at one level for all samples, goes to the role of that level. The
    boundary itself belongs to the high expert, as in diffusers."""

    def see(x_t: Tensor, sigma: Tensor, cond: Cond, **causal: Any) -> Prediction:
        # In the level's own precision: 1000 x 0.9 in fp32 is 899.99998.
        high = bool(sigma.min() >= sigma.new_tensor(experts.boundary / 1000))
        return networks[experts.high if high else experts.low](x_t, sigma, cond, **causal)

    return see


def shared_first(denoiser: Denoiser, timestep: float) -> Denoiser:
    """``denoiser`` that evaluates the network once at ``timestep`` for each number of samples: samplers of one noise,
    prompt and network that begin there make the same first call. For recipes without chunks, of which each begins there
    anew."""
    first: dict[int, Prediction] = {}

    def see(x_t: Tensor, sigma: Tensor, cond: Cond, **causal: Any) -> Prediction:
        if causal or bool((sigma != sigma.new_tensor(timestep / 1000)).any()):
            return denoiser(x_t, sigma, cond, **causal)
        if len(x_t) not in first:  # guidance makes it twice as large
            first[len(x_t)] = denoiser(x_t, sigma, cond)
        return first[len(x_t)]

    return see


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    sampler: Sampler,
    x_T: Tensor,
    cond: Cond,
    uncond: Cond | None = None,
    *,
    noise: Callable[[int], Tensor],
) -> Tensor:
    """x_0 [B, C, T, H, W] from pure noise ``x_T`` (timestep 1000, or the first of the list).

    A recipe with chunks needs a causal ``denoiser``. The sampler calls each ``noise(i)`` once and, if the context has
    noise, also ``noise(steps)``. ValueError if T is no whole number of chunks.
    """
    if sampler.chunks is None:
        return denoise(denoiser, sampler, x_T, cond, uncond, noise, 0, len(sampler.timesteps))
    once = cache(lambda i: x_T if i < 0 else noise(i))
    lengths = chunk_lengths(x_T.shape[2], sampler.chunks)
    chunks = sample_chunks(denoiser, sampler, lengths, cond, uncond, lambda i, where: once(i)[:, :, where])
    return torch.cat(list(chunks), dim=2)


@torch.no_grad()
def sample_chunks(
    denoiser: Denoiser,
    sampler: Sampler,
    lengths: Iterable[int],
    cond: Cond,
    uncond: Cond | None,
    noise: Callable[[int, slice], Tensor],
) -> Iterator[Tensor]:
    """Yield x_0 [B, C, t, H, W] chunk by chunk, of ``lengths`` t, by a recipe with chunks.

    ``noise(i, where)`` [B, C, t, H, W] is noise of the frames ``where``: for i = -1 the start, else the re-noising
    after step i, and for i = :func:`most_steps` the noise of the context. With guidance each chunk enters the caches of
    both prompts.
    """
    assert sampler.chunks is not None
    remembered, see_both = cond, denoiser
    if sampler.guidance_scale != 1.0:
        remembered, see_both = both_prompts(cond, uncond), remember_both(denoiser)

    def denoise_chunk(see: Denoiser, number: int, where: slice) -> Tensor:
        recipe = of_chunk(sampler, number)
        steps, x_T = len(recipe.timesteps), noise(-1, where)
        return denoise(see, recipe, x_T, cond, uncond, lambda i: noise(i, where), 0, steps)

    last = most_steps(sampler)
    yield from stream(see_both, sampler.chunks, lengths, remembered, lambda where: noise(last, where), denoise_chunk)


def remember_both(denoiser: Denoiser) -> Denoiser:
    """``denoiser`` that adds a chunk to the caches of both prompts, since guidance reads both pasts."""

    def see(x_t: Tensor, sigma: Tensor, cond: Cond, **causal: Any) -> Prediction:
        if causal.get("remember"):
            x_t, sigma = torch.cat([x_t, x_t]), torch.cat([sigma, sigma])
        return denoiser(x_t, sigma, cond, **causal)

    return see
