"""Check every role's transformer: its files, its channels, its adapters."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from ray_distill.config import ConfigError, RunConfig
from ray_distill.config.stages import distinct
from ray_distill.models.exits import check_exits
from ray_distill.models.heads import head_blocks
from ray_distill.models.loading import (
    NATIVE,
    check_attention,
    check_blocks,
    check_masks,
    check_weights,
    empty_transformer,
)
from ray_distill.models.lora import check_targets
from ray_distill.models.pipeline import Pipeline
from ray_distill.models.spec import Latent, of_clips
from ray_distill.train.driver.checks.pipeline import Ends, check_parts
from ray_distill.train.schedule import total_updates
from ray_distill.types import STUDENT, Average

WITHOUT_GRADIENT = ("sage", "_sage")
"""Beginnings of the names of SageAttention's backends in diffusers, whose functions PyTorch cannot differentiate."""


def check_networks(config: RunConfig) -> None:
    """Check that every role's weights exist, are whole and of this family, and take its adapters and settings."""
    check_attention(config.model.attention)
    family, whose = config.model.family, ""
    ends: tuple[tuple[str, Any], ...] = ()
    for role in config.method.roles:
        section, key = config.role(role), f"roles.{role}.path" if config.role(role).path else "model.path"
        described = config.pipeline(role).transformer
        for name, heads in config.method.heads.items():
            if heads.of == role:
                head_blocks(name, heads, family, described)
        if role in config.method.heads:
            continue
        if section.init == "pretrained":
            check_weights(family, config.source(role), key)
        if section.attention:
            check_attention(section.attention, f"roles.{role}.attention")
        backend = section.attention or config.model.attention
        where = f"roles.{role}.attention" if section.attention else "model.attention"
        read = role in {heads.of for heads in config.method.heads.values()}
        if backend.startswith(WITHOUT_GRADIENT) and (config.method.roles[role] == "trained" or read):
            raise ConfigError(
                f"{where} = {backend!r}: its kernels give no gradient, so {role} would learn around its attention "
                f"alone; use 'flash' or 'native' for it (roles.{role}.attention), and {backend!r} for frozen roles"
            )
        if section.lora or section.compile or backend != NATIVE or role in config.method.exits:
            network = empty_transformer(family, config.source(role))
            check_blocks(network, backend, section.compile, f"roles.{role}")
            check_masks(backend, config.model.encoders.fields, where)
            if role in config.method.exits:
                check_exits(network, "method.exit_embedding = true")
            if section.lora:
                check_targets(section.lora, network, f"roles.{role}.lora")
        own = tuple((name, described.get(name)) for name in config.model.pipeline.of.ends)
        if whose and own != ends:
            raise ConfigError(
                f"{key} = {config.source(role)}: {role} takes and gives {_spelt(own)}, and {whose} {_spelt(ends)}: "
                "all roles see the same latents and the same text; give networks that fit together"
            )
        whose, ends = role, own


def check_ends(config: RunConfig, ends: Ends) -> None:
    """Check that every transformer takes and gives the latents of the pipeline's VAE, and takes its text encoder's
    text."""
    family = config.model.family
    roles = [role for role in config.method.roles if role not in config.method.heads]
    sources = {(pipeline := config.pipeline(role)).key: pipeline for role in roles}
    for number, part in enumerate(config.data.parts):
        if part.teacher is not None and part.teacher.path is not None:
            key = f"data.datasets.{number}.teacher.path"
            check_weights(family, part.teacher.path, key)
            sources[key] = config.model.pipeline.beside(part.teacher.path, key)
    for source in sources.values():
        takes = _arguments(source)
        what = f"{source.where}: its transformer"
        _check_same_fields(config, source)
        extra = source.of.image_channels(takes)
        images = [name for name in ("image_dim", "added_kv_proj_dim") if takes.get(name)]
        if images and (not extra or len(images) < 2):
            raise ConfigError(
                f"{what} has {images[0]}, so it reads an image in another way than an image-to-video network; give a "
                "text-to-video or an image-to-video folder"
            )
        for name, beside in (("in_channels", extra), ("out_channels", 0)):
            channels = (takes.get(name) or takes["in_channels"]) - beside
            if channels != ends.channels:
                raise ConfigError(
                    f"{what} has {name} {channels + beside}, and the VAE of model.path makes latents of "
                    f"{ends.channels} channels; give a folder whose parts belong together (networks for inpainting or "
                    "control have more channels than image-to-video networks)"
                )
        width = source.of.text_width
        if takes[width] != ends.width:
            raise ConfigError(
                f"{what} reads text of {width} {takes[width]}, and the text encoder of model.path gives {ends.width}; "
                "give a folder whose parts belong together"
            )


def _check_same_fields(config: RunConfig, source: Pipeline) -> None:
    """Check that all networks see the same image, or none."""
    fields, own = (set(of_clips(pipeline.fields(1))) for pipeline in (config.model.pipeline, source))
    if fields != own:
        spelt = [", ".join(sorted(names)) or "text alone" for names in (own, fields)]
        raise ConfigError(
            f"{source.where}: its transformer takes {spelt[0]}, and that of model.path takes {spelt[1]}; give "
            "networks of one kind, all text to video or all image to video"
        )


def check_latents(config: RunConfig) -> None:
    """Run ``check_ends`` on the actual pipeline, before anything uses it."""
    if (config.model.path / "vae/config.json").is_file() and (config.model.path / "text_encoder/config.json").is_file():
        check_ends(config, check_parts(config))


def check_positions(config: RunConfig, shapes: Iterable[Latent]) -> None:
    """Check that every transformer has positions for latents of these ``shapes`` (C, t, h, w); a windowed student needs
    those of its window only."""
    chunks = config.method.sampler().chunks
    for role, need in config.method.roles.items():
        if role in config.method.heads:
            continue
        windowed = STUDENT in (role, need.of if isinstance(need, Average) else role)
        window = chunks.window if chunks is not None and windowed else None
        takes = _arguments(config.pipeline(role))
        most, patch = takes.get("rope_max_seq_len"), takes.get("patch_size")
        if most is None or not isinstance(patch, tuple | list):
            continue  # LTX-Video computes its positions for each clip
        for _, frames, *rest in (shape[:4] for shape in shapes):
            sides = (min(frames, window.frames) if window else frames, *rest)
            for name, side, of in zip(("frames", "height", "width"), sides, patch, strict=True):
                if side % of or side // of > most:
                    raise ConfigError(
                        f"data.{name}: latents have {side} {name if name == 'frames' else 'rows or columns'}, and the "
                        f"transformer in {config.source(role)} takes multiples of {of}, at most {most * of} "
                        f"(rope_max_seq_len = {most}); lower data.{name}, or evaluate.{name} where it is set"
                    )


def _arguments(pipeline: Pipeline) -> dict[str, Any]:
    """A transformer's configuration with its class's defaults for missing keys; a whole one imports no class."""
    names = {"rope_max_seq_len", "patch_size", "in_channels", "out_channels", "image_dim", "added_kv_proj_dim"}
    if pipeline.transformer.keys() >= {*names, pipeline.of.text_width}:
        return pipeline.transformer
    parameters = inspect.signature(pipeline.of.transformer.__init__).parameters
    return {name: parameter.default for name, parameter in parameters.items()} | pipeline.transformer


def _spelt(ends: tuple[tuple[str, Any], ...]) -> str:
    return ", ".join(f"{name} {value}" for name, value in ends)


def check_pulls(config: RunConfig) -> None:
    """ConfigError if a role should follow another role's weights, and their tensors differ."""
    steps = distinct(config.method, config.train.steps)
    for pull in {pull for _, updates in steps for update in updates for pull in update.pulls}:
        roles = pull.role, pull.towards
        why = f"method.{pull.key} = {pull.decay}: {pull.role} follows the weights of {pull.towards}"
        if adapted := [role for role in roles if config.role(role).lora]:
            raise ConfigError(f"{why}, and adapters cannot be averaged; remove roles.{adapted[0]}.lora or {pull.key}")
        own, other = (config.pipeline(role).transformer for role in roles)
        public = {key for key in own.keys() | other.keys() if not key.startswith("_")}
        if different := sorted(key for key in public if own.get(key) != other.get(key)):
            difference = ", ".join(f"{key} is {own.get(key)} and {other.get(key)}" for key in different)
            raise ConfigError(
                f"{why}, but they are of two architectures: {difference}. Give both one path, or remove {pull.key}"
            )


def check_updates(config: RunConfig) -> None:
    """ConfigError for a run that never updates a student, which it would publish with its first weights."""
    updated, experts = total_updates(config), config.method.sampler().experts
    sampled = (experts.high, experts.low) if experts else (STUDENT,)
    for role in (role for role in sampled if config.method.roles[role] == "trained" and role not in updated):
        first = sum(config.method.period) if role == STUDENT and not config.method.stages else None
        when = f"the student's first update is in step {first}" if first else f"{role} is never updated"
        raise ConfigError(
            f"train.steps = {config.train.steps}: {when} (updates repeat every {config.method.period[1]} steps); raise "
            f"train.steps, or lower method.student_interval{' or method.high_steps' if config.method.stages else ''}"
        )
