"""Teacher in the form of an export: a folder, without a copy, from which diffusers' pipeline samples the teacher."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from ray_distill.config import RunConfig
from ray_distill.diffusion.timesteps import euler_timesteps
from ray_distill.errors import ConfigError
from ray_distill.export.checks import RECIPE, check_recipe
from ray_distill.export.diffusers import SCHEDULERS, copy_script, recipe_of
from ray_distill.export.shards import save_network
from ray_distill.models.loading import hollow_transformer
from ray_distill.models.pipeline import Pipeline
from ray_distill.models.places import FIRST, SECOND, transformer_folder
from ray_distill.models.spec import of_clips
from ray_distill.types import TEACHER, Sampler

POSITIONS = 4096
"""Latent positions of a clip beyond which a smaller one is compared: the size changes no formula."""


def link_teacher(config: RunConfig, folder: Path, size: tuple[int, int, int]) -> Path:
    """Write ``folder``: links to the teacher's transformers, or copies of them with ``model.loras`` merged; a recipe of
    ``evaluate.preflight.steps`` Euler steps with the guidance of ``evaluate``; and the family's sample.py. Returns it.
    ``size``: frames, height and width.

    ConfigError where a teacher is a single file, ValueError where sample.py cannot replay the recipe.
    """
    settings, experts = config.evaluate, config.method.teachers
    both = {FIRST: experts.high, SECOND: experts.low} if experts else {FIRST: TEACHER}
    places = {name: transformer_folder(config.source(role)) for name, role in both.items()}
    for name, place in places.items():
        if not place.is_dir():
            raise ConfigError(f"{place}: no folder, and sample.py loads the teacher's {name} from one")
    steps = euler_timesteps(settings.preflight.steps, settings.teacher_shift)
    one_scale = experts and replace(experts, low_guidance_scale=None)
    audio = settings.teacher_audio_guidance
    sampler = Sampler(steps, "ode", settings.teacher_guidance, experts=one_scale, audio_guidance_scale=audio)
    pipeline, fields = config.model.pipeline, config.model.encoders.fields
    export = pipeline.of.leaves(fields)
    check_recipe(sampler, export)
    network, _ = hollow_transformer(config.model.family, config.source(both[FIRST]), torch.float32)
    scheduler = export.scheduler(network) if export.scheduler else SCHEDULERS["ode"](shift=1.0)
    folder.mkdir(parents=True)
    for name, role in both.items():
        if loras := config.loras(role):
            whole, tensors = hollow_transformer(config.model.family, config.source(role), torch.float32, loras)
            save_network(folder / name, whole, tensors)
        else:
            (folder / name).symlink_to(places[name].resolve(), target_is_directory=True)
    scheduler.save_pretrained(folder / "scheduler")
    frames, height, width = size
    clips = {
        "frames": frames,
        "height": height,
        "width": width,
        "fps": config.data.fps,
        "max_sequence_length": config.model.max_sequence_length,
        "negative_prompt": config.data.negative_prompt,
        "from_image": bool(of_clips(fields)),
    }
    shape = pipeline.latent_shape(*size)
    recipe = recipe_of(folder, config.model.path, sampler, shape, clips)  # type: ignore[arg-type]
    (folder / RECIPE).write_text(json.dumps(recipe | {"scheduler": type(scheduler).__name__}))
    copy_script(folder, sampler, export)
    return folder


def compared_size(pipeline: Pipeline, size: tuple[int, int, int]) -> tuple[int, int, int]:
    """(frames, height, width) of the clip that both samplers make: ``size`` itself where its latents have few
    positions, else the fewest frames that the codec takes, and sides of eight patches at most."""
    _, frames, rows, columns, *_ = pipeline.latent_shape(*size)
    if frames * rows * columns <= POSITIONS:
        return size
    sides = [min(side, 8 * multiple) for side, multiple in zip(size[1:], pipeline.multiple, strict=True)]
    for count in range(2, size[0]):
        try:
            pipeline.latent_shape(count, *sides)
        except ValueError:  # the codec takes other numbers of frames
            continue
        return count, sides[0], sides[1]
    return size[0], sides[0], sides[1]
