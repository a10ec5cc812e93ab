"""Check the datasets, and the size of clips that are made of them."""

from __future__ import annotations

import json
from operator import sub
from typing import Any

from ray_distill.config import ConfigError, RunConfig
from ray_distill.data.prepare.first_rows import check_rows
from ray_distill.diffusion.causal import chunk_lengths
from ray_distill.models.loading import check_folder
from ray_distill.train.driver.checks.networks import check_positions


def check_size(config: RunConfig) -> None:
    """Clips fit the codec, the transformer's patches and the method's chunks."""
    data = config.data
    models = config.model.pipeline
    shown = config.shown_size
    for section, (height, width) in (("data", (data.height, data.width)), ("evaluate", shown[1:])):
        for name, of, whole in zip(("height", "width"), (height, width), models.multiple, strict=True):
            if of % whole:
                near = max(1, of // whole) * whole
                raise ConfigError(
                    f"{section}.{name} = {of}: the model takes multiples of {whole}; use {near} or {near + whole}"
                )
    shapes = {models.latent_shape(clips.frames, data.height, data.width) for clips in map(data.clips, data.parts)}
    shapes |= {models.latent_shape(data.frames, data.height, data.width), models.latent_shape(*shown)}
    check_positions(config, sorted(shapes))
    chunks = config.method.sampler().chunks
    for frames in {data.frames, shown[0]}:
        latent = models.latent_shape(frames, data.height, data.width)[1]
        if chunks is not None:
            chunk_lengths(latent, chunks)


def check_data(config: RunConfig) -> None:
    """The datasets are there, with rows that can be used, and they are what the method and the metric need."""
    check_rows(config.data)
    prompts = [part.name for part in config.data.parts if part.kind == "prompts" and part.teacher is None]
    for number, part in enumerate(config.data.parts):
        if part.teacher is not None and part.teacher.path is not None:
            check_folder(config.model.family, part.teacher.path, f"data.datasets.{number}.teacher.path")
    if config.method.uses_latents and prompts:
        raise ConfigError(
            f"data.datasets: {prompts[0]!r} has prompts alone, and method {config.method.name!r} learns from videos; "
            "give manifest or videos in place of prompts, or a teacher that makes theirs"
        )
    check_pairs(config)


def check_pairs(config: RunConfig) -> None:
    """Prepared trajectories are those of the method's own solver; ConfigError names what differs."""
    method: Any = config.method
    if not getattr(method, "pairs", False):
        return
    numbers = {"steps": method.solver_steps, "shift": method.solver_shift, "guidance": method.solver_guidance}
    levels = list(method.sampler().timesteps)
    recipe = json.dumps(numbers | {"levels": levels})
    for number, part in enumerate(config.data.parts):
        if part.teacher is None:
            raise ConfigError(
                f"data.datasets.{number}: method.pairs = true learns from trajectories alone; give it prompts with "
                f"teacher: {recipe}"
            )
        same = len(part.teacher.levels) == len(levels) and max(map(abs, map(sub, part.teacher.levels, levels))) < 1e-3
        if not same or any(getattr(part.teacher, key) != value for key, value in numbers.items()):
            raise ConfigError(
                f"data.datasets.{number}.teacher: method.pairs = true needs the method's own solver and levels; "
                f"use teacher: {recipe}"
            )
