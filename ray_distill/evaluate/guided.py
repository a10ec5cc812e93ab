"""Choose the guided few-step teacher: all settings of a grid on some videos, and the best few on all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ray_distill.bars import bar
from ray_distill.config import RunConfig
from ray_distill.diffusion.timesteps import euler_timesteps
from ray_distill.evaluate.generate import Generator
from ray_distill.evaluate.metrics import frechet_distance
from ray_distill.evaluate.samples import Candidate
from ray_distill.evaluate.waiting import wait_for
from ray_distill.types import TEACHER, Sampler

FIRST = 100
"""Videos of each setting, at least, that decide which settings are sampled on all prompts."""
BEST = 3
"""Settings that are."""


def best_guided(config: RunConfig, generator: Generator, real: Tensor, say: Callable[[str], None]) -> Sampler:
    """The teacher at the student's steps, with the guidance and shift whose videos are closest to ``real`` by the
    Fréchet distance, on a seed of its own."""
    settings = config.evaluate
    steps, count = len(config.method.sampler().timesteps), len(generator.prompts)
    experts, audio = config.method.teachers, settings.teacher_audio_guidance
    grid = [
        Sampler(euler_timesteps(steps, shift), "ode", scale, experts=experts, audio_guidance_scale=audio)
        for scale in settings.guidance_grid
        for shift in settings.shift_grid
    ]
    whole_batches = settings.batch * -(-FIRST // settings.batch)
    first = count if len(grid) <= BEST else min(count, whole_batches)
    features = _features(generator, grid, settings.tune_seed, range(first))
    scores = [frechet_distance(each, real) for each in features]
    chosen = np.argsort(scores, kind="stable")[:BEST] if first < count else [int(np.argmin(scores))]
    if first < count:
        rest = _features(generator, [grid[i] for i in chosen], settings.tune_seed, range(first, count))
        scores = [frechet_distance(torch.cat([features[i], more]), real) for i, more in zip(chosen, rest, strict=True)]
        chosen = [chosen[int(np.argmin(scores))]]
    best = grid[chosen[0]]
    timesteps = ", ".join(f"{t:.0f}" for t in best.timesteps)
    say(f"   few-step teacher: guidance {best.guidance_scale:g} and timesteps {timesteps} are best")
    return best


def _features(generator: Generator, grid: Sequence[Sampler], seed: int, videos: range) -> Tensor:
    """The metric's features [grid, videos, D]."""
    tasks = generator.start_features([Candidate(TEACHER, sampler) for sampler in grid], seed, videos)
    with bar("   parts of the few-step teacher's videos", len(tasks)) as shown:
        return torch.cat(wait_for(tasks, generator.timeout_s, shown, 1), dim=1)
