"""Check the datasets, and the size of their clips."""

from __future__ import annotations

import json
from functools import partial
from operator import sub

from ray_distill.config import ConfigError, RunConfig
from ray_distill.config.method import method_fields
from ray_distill.config.sequence import check_tokens
from ray_distill.data.prepare.first_rows import check_rows
from ray_distill.data.read.clip import BadClip
from ray_distill.data.read.picture import read_picture
from ray_distill.diffusion.causal import chunk_lengths
from ray_distill.models.codec import frames_of
from ray_distill.models.loading import check_folder
from ray_distill.models.spec import of_clips, prefix_frames
from ray_distill.train.driver.checks.latents import check_latents
from ray_distill.train.driver.checks.networks import check_positions

KEYS_OF_SOUND = {
    "video_weight": 1.0,
    "audio_weight": 1.0,
    **dict.fromkeys(("audio_guidance", "solver_audio_guidance", "sampling_audio_guidance")),
}
"""Keys of methods that have an effect on clips with sound alone, with their defaults."""


def check_size(config: RunConfig) -> None:
    """Check that clips fit the codec, the transformer's patches and the method's chunks."""
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
    shapes |= {models.latent_shape(data.frames, data.height, data.width)}
    check_tokens(config, sorted(shapes))
    shapes |= {models.latent_shape(*shown)}
    check_positions(config, sorted(shapes))
    prefix, fewest = prefix_frames(config.model.encoders.fields), min(shape[1] for shape in shapes)
    fixed = prefix or int(bool(of_clips(config.model.encoders.fields)))  # beside each frame the first is given, too
    if fixed and fewest <= fixed:
        raise ConfigError(
            f"data.frames = {data.frames}: the shortest clips have {fewest} latent frames, and the picture gives "
            f"{fixed} of them, so no frame is left to generate; raise data.frames (and evaluate.frames, where it is "
            "set)"
        )
    if config.method.beyond_clips and fewest < 2:
        raise ConfigError(
            f"method.rollout_frames: the shortest clips have {fewest} latent frame, and the first one of a later "
            "window is not scored, so no frame is left; raise data.frames, or remove method.rollout_frames"
        )
    chunks = config.method.sampler().chunks
    for frames in {data.frames, shown[0]}:
        latent = models.latent_shape(frames, data.height, data.width)[1]
        if chunks is not None:
            chunk_lengths(latent, chunks, partial(frames_of, models.codec))


def check_data(config: RunConfig) -> None:
    """Check that the datasets exist, have usable rows, and suit the method and the metric."""
    check_rows(config.data)
    check_latents(config)
    prompts = [part.name for part in config.data.parts if part.kind == "prompts" and part.teacher is None]
    for number, part in enumerate(config.data.parts):
        if part.teacher is not None and part.teacher.path is not None:
            check_folder(config.model.family, part.teacher.path, f"data.datasets.{number}.teacher.path")
    if config.method.uses_latents and prompts:
        raise ConfigError(
            f"data.datasets: {prompts[0]!r} has prompts alone, and method {config.method.name!r} learns from videos; "
            "give manifest or videos in place of prompts, or add a teacher that makes the videos"
        )
    check_pictures(config)
    check_pairs(config)
    check_sound(config)


def check_pictures(config: RunConfig) -> None:
    """Check that pictures are given if and only if the network takes them."""
    of = config.model.pipeline.of
    if config.model.from_image and of.image is None:
        raise ConfigError(f"model.from_image = true: family {of.name!r} makes videos of text alone; remove the key")
    from_image, where = bool(of_clips(config.model.encoders.fields)), config.model.pipeline.where
    for part in config.data.parts:
        if part.image_column is not None and not from_image:
            raise ConfigError(
                f"data.datasets: {part.name!r} has image_column = {part.image_column!r}, and {where} makes videos of "
                "text alone; remove image_column, or give an image-to-video pipeline (Wan 2.2 5B, LTX-2: "
                "model.from_image=true)"
            )
        if from_image and part.kind == "prompts" and part.image_column is None:
            raise ConfigError(
                f"data.datasets: {part.name!r} has prompts alone, and {where} needs a picture with each prompt; name "
                "the pictures' column as image_column, or give datasets with videos"
            )
    if from_image and config.method.beyond_clips:
        raise ConfigError(
            f"method.rollout_frames: {where} begins from a picture, and the networks that score later frames of a "
            "long rollout would take it for the first of these frames; remove method.rollout_frames"
        )
    prompts, images = config.evaluate.prompts, config.evaluate.images
    if images and not from_image:
        raise ConfigError("evaluate.images: the pipeline makes videos of text alone; remove evaluate.images")
    if from_image and (without := [name for name in prompts if name not in images]):
        raise ConfigError(
            f"evaluate.prompts: {without[0]!r} has no picture, and the pipeline begins from a picture; give one in "
            "evaluate.images, or leave evaluate.prompts out for captions and first frames of the data"
        )
    for name, path in images.items():
        try:
            read_picture(str(path), config.data.maximum_pixels)
        except BadClip as bad:
            raise ConfigError(f"evaluate.images: {name}: {bad}") from None


def keys_of_sound(config: RunConfig) -> list[str]:
    """The keys that are set and have an effect on clips with sound alone."""
    fields = method_fields(config.method)
    keys = [f"method.{key}" for key, off in KEYS_OF_SOUND.items() if fields.get(key, off) != off]
    if config.evaluate.teacher_audio_guidance is not None:
        keys.append("evaluate.teacher_audio_guidance")
    teachers = [(number, part.teacher) for number, part in enumerate(config.data.parts) if part.teacher is not None]
    return keys + [f"data.datasets.{n}.teacher.audio_guidance" for n, of in teachers if of.audio_guidance is not None]


def check_sound(config: RunConfig) -> None:
    """Check that clips with sound have a method that learns sound, and the family's rate at which frames and sound of
    files stay together; without sound no key of sound is set."""
    of, data, method = config.model.pipeline.of, config.data, config.method
    if of.fps is not None and data.fps != of.fps:
        raise ConfigError(
            f"data.fps = {data.fps:g}: family {of.name!r} places frames in time at {of.fps:g} a second; use {of.fps:g}"
        )
    if of.sound is None:
        if keys := keys_of_sound(config):
            raise ConfigError(f"{keys[0]}: clips of family {of.name!r} have no sound; remove the key")
        return
    if not method.with_sound:
        raise ConfigError(
            f"method.name = {method.name!r}: this method trains on video without sound, and clips of family "
            f"{of.name!r} have sound; use dmd, dmd_gan, dmd_warm_start, lcm or flow_matching"
        )
    if method.exits:
        raise ConfigError(
            f"method.exit_embedding = true: networks of family {of.name!r} have no exit embedding; remove the key"
        )
    for part in (part for part in data.parts if part.kind != "prompts"):
        if (stride := data.clips(part).stride) != 1:
            raise ConfigError(
                f"data.stride = {stride}: the picture of {part.name!r} would be shown {stride} times as fast as its "
                "sound is heard; use 1"
            )
        if not data.resample:
            raise ConfigError(
                f"data.resample = false: frames of {part.name!r} as they come may be shown at another pace than their "
                "sound is heard; remove the key"
            )


def check_pairs(config: RunConfig) -> None:
    """Check that prepared trajectories are those of the method's own solver; ConfigError names the difference."""
    prepared = config.method.prepared
    if prepared is None:
        return
    numbers: dict[str, float | None] = {"steps": prepared.steps, "shift": prepared.shift, "guidance": prepared.guidance}
    levels = list(prepared.levels)
    audio = {} if prepared.audio_guidance is None else {"audio_guidance": prepared.audio_guidance}
    recipe = json.dumps(numbers | audio | {"levels": levels})
    numbers["audio_guidance"] = prepared.audio_guidance
    for number, part in enumerate(config.data.parts):
        if part.teacher is None:
            raise ConfigError(
                f"data.datasets.{number}: method.pairs = true learns from the teacher's trajectories alone; give this "
                f"dataset prompts with teacher: {recipe}"
            )
        same = len(part.teacher.levels) == len(levels) and max(map(abs, map(sub, part.teacher.levels, levels))) < 1e-3
        if not same or any(getattr(part.teacher, key) != value for key, value in numbers.items()):
            raise ConfigError(
                f"data.datasets.{number}.teacher: method.pairs = true needs the method's own solver and levels; "
                f"use teacher: {recipe}"
            )
