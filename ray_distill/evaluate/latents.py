"""Sample latents from one network, and decode them to frames; samples that are not finite are refused."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ray_distill.checkpoint.network import load_network
from ray_distill.config import ConfigError, RunConfig
from ray_distill.data.read.transform import to_frames
from ray_distill.diffusion.samplers import by_level, sample, shared_first
from ray_distill.evaluate.samples import Candidate
from ray_distill.models import family
from ray_distill.models.codec import Codec
from ray_distill.models.conditions import collate, unconditional
from ray_distill.models.packed import tensor_shape
from ray_distill.models.spec import Latent, Row
from ray_distill.rng import StatelessRng
from ray_distill.types import Cond, Denoiser, Sampler

_last: dict[Hashable, dict[str, nn.Module]] = {}


def _networks(config: RunConfig, candidate: Candidate, devices: tuple[str, ...]) -> dict[str, nn.Module]:
    """The candidate's networks by role, on ``devices``; the process holds those of its last candidate, and lets them go
    before it loads others."""
    key = config.model_dump_json(), candidate.roles, candidate.checkpoint, candidate.averaged, devices
    if key not in _last:
        _last.clear()
        of, averaged = candidate.checkpoint, candidate.averaged
        _last[key] = {
            role: load_network(config, role, of, averaged, dtype_of(config, role), devices) for role in candidate.roles
        }
    return _last[key]


def dtype_of(config: RunConfig, role: str) -> torch.dtype:
    """The dtype in which ``role`` computes, in training and in samples."""
    dtype: torch.dtype = getattr(torch, config.role(role).dtype)
    return dtype


def _devices(config: RunConfig, device: torch.device) -> tuple[str, ...]:
    if device.type != "cuda":
        return (str(device),)
    if (there := torch.cuda.device_count()) < config.evaluate.gpus:
        raise ConfigError(
            f"evaluate.gpus = {config.evaluate.gpus}: this process sees {there}; set evaluate.gpus={there}"
        )
    return tuple(f"cuda:{number}" for number in range(config.evaluate.gpus))


def denoiser(config: RunConfig, candidate: Candidate, device: torch.device) -> Denoiser:
    """The denoiser of ``candidate``: one network, or the two experts of its recipe; on GPUs each is spread over
    evaluate.gpus of those that this process sees, ``device`` first. ConfigError where it sees fewer."""
    of, networks = family(config.model.family), {}
    for role, module in _networks(config, candidate, _devices(config, device)).items():
        if device.type == "cpu" and dtype_of(config, role) == torch.float32:
            of.quicken(module)
        networks[role] = of.denoiser(module, dtype_of(config, role))
    experts = candidate.sampler.experts
    return by_level(experts, networks) if experts else networks[candidate.role]


def make_latents(
    denoise: Any,
    sampler: Sampler,
    cond: Cond,
    uncond: Cond,
    first: int,
    seed: int,
    shape: Any,
) -> Tensor:
    """Latents [B, C, T, H, W] of the samples first, first + 1, ...: noise depends on (seed, sample), not on the
    batch."""
    field = next(iter(cond.values()))
    ids = torch.arange(first, first + len(field), device=field.device)
    rng = StatelessRng(seed)
    x_T = rng.noise("sample/start", ids, shape)
    return sample(denoise, sampler, x_T, cond, uncond, noise=lambda i: rng.noise(f"sample/step{i}", ids, shape))


def sample_batches(
    config: RunConfig,
    candidates: Sequence[Candidate],
    rows: Sequence[Row],
    negative: Row,
    seed: int,
    shape: Latent,
    device: torch.device,
    first: int = 0,
) -> Iterator[list[Tensor]]:
    """Latents [B, C, T, H, W] of each of ``candidates``, batch by batch of ``rows``, which are the samples ``first``,
    first + 1, ... Candidates are samplers of the same networks; those that begin at the same level share that call."""
    denoise, fields = denoiser(config, candidates[0], device), config.model.encoders.fields
    start = max(candidate.sampler.timesteps[0] for candidate in candidates)
    shares = len(candidates) > 1 and all(candidate.sampler.chunks is None for candidate in candidates)
    for at in range(0, len(rows), config.evaluate.batch):
        some = collate(rows[at : at + config.evaluate.batch], fields, shape)
        cond = {name: value.to(device) for name, value in some.items()}
        null = unconditional(negative, cond, fields)
        see = shared_first(denoise, start) if shares else denoise
        batch = []
        for candidate in candidates:
            batch.append(make_latents(see, candidate.sampler, cond, null, first + at, seed, tensor_shape(shape)))
            check_finite(batch[-1], f"latents of {candidate}, seed {seed}", first + at)
        yield batch


class NotFinite(RuntimeError):
    """Error for samples with NaN or infinities, which would give black videos and spoil every distance."""


def frames_of(codec: Codec, latents: Tensor, of: str, first: int = 0) -> np.ndarray:
    """Decode latents [B, C, t, h, w] to uint8 [B, T, H, W, 3]; NotFinite names the samples of ``of``, counted from
    ``first``, with latents or pixels that are not finite."""
    check_finite(latents, f"latents of {of}", first)
    pixels = codec.decode(latents)
    check_finite(pixels, f"decoded pixels of {of}", first)
    return to_frames(pixels)


def check_finite(samples: Tensor, what: str, first: int) -> None:
    """NotFinite, with the numbers of samples from ``first`` on, for ``samples`` [N, ...] that are not finite."""
    if math.isfinite(samples.sum()):  # a sum of finite values may overflow, and no other sum is finite
        return
    bad = [first + i for i, sample in enumerate(samples) if not torch.isfinite(sample).all()]
    if bad:
        raise NotFinite(
            f"{len(bad)} of {len(samples)} samples are not finite (the first is number {bad[0]}): {what}. Weights or "
            "activations have overflowed; take an earlier checkpoint, or lower the learning rate or the guidance"
        )
