"""What can be known to fail before a cluster starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from operator import sub
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ray_distill import checkpoint
from ray_distill.config import ConfigError, RunConfig
from ray_distill.config.keys import flatten
from ray_distill.config.secrets import HIDDEN
from ray_distill.data import listing
from ray_distill.data.made import Models
from ray_distill.diffusion.causal import chunk_lengths
from ray_distill.export.hub import check_token
from ray_distill.models import family as adapter
from ray_distill.models.heads import placed
from ray_distill.models.loading import (
    check_attention,
    check_folder,
    check_weights,
    empty_transformer,
    weights_hash,
)
from ray_distill.models.lora import check_targets
from ray_distill.track.webhook import read_hook
from ray_distill.train import schedule
from ray_distill.train.job import resumed_from


def check(config: RunConfig) -> None:
    """What can be known to fail is known before a cluster starts; raises ConfigError or ValueError."""
    check_networks(config)
    check_parts(config.model.path)
    check_track(config)
    metric = config.evaluate.metric
    if metric is not None and not (metric / "config.json").is_file():
        raise ConfigError(f"evaluate.metric = {metric}: no config.json there; remove the key to do without a metric")
    check_data(config)
    check_size(config)
    if config.track.webhook is not None:
        read_hook(config.track.webhook)
    check_token(config)
    last = resumed_from(config.run_dir, str(config.train.resume_from))
    if last is not None and config.train.resume_from == "none":
        raise ConfigError(
            f"train.resume_from = none: {last.folder} is there. Choose another name, remove {config.run_dir}, or go on "
            "from it with train.resume_from=latest"
        )
    if last is not None:
        check_resumable(config, last)
    check_pulls(config)


def check_track(config: RunConfig) -> None:
    """A password that was hidden, in the configuration that a run or a sweep wrote, is none."""
    if HIDDEN in config.track.uri:
        raise ConfigError(
            f"track.uri = {config.track.uri}: its password was hidden when this was written; give it again: "
            "RAY_DISTILL_TRACK__URI=..., or for a server MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )


def check_networks(config: RunConfig) -> None:
    """Every role's weights are there, whole and of this family, and what is put on them is possible."""
    check_attention(config.model.attention)
    family, whose = config.model.family, ""
    ends: tuple[tuple[str, Any], ...] = ()
    for role in config.method.roles:
        held, key = config.role(role), f"roles.{role}.path" if config.role(role).path else "model.path"
        described = check_folder(family, config.source(role), key)
        for name, heads in config.method.heads.items():
            if heads.of == role:
                placed(name, heads, family, described)
        if role in config.method.heads:
            continue
        if held.init == "pretrained":
            check_weights(family, config.source(role), key)
        if held.attention:
            check_attention(held.attention, f"roles.{role}.attention")
        if held.lora:
            check_targets(held.lora, empty_transformer(family, config.source(role)), f"roles.{role}.lora")
        own = tuple((name, described.get(name)) for name in adapter(family).ends)
        if whose and own != ends:
            raise ConfigError(
                f"{key} = {config.source(role)}: {role} takes and gives {_spelt(own)}, and {whose} {_spelt(ends)}: "
                "roles see the same latents and the same text"
            )
        whose, ends = role, own


def _spelt(ends: tuple[tuple[str, Any], ...]) -> str:
    return ", ".join(f"{name} {value}" for name, value in ends)


def check_parts(folder: Path) -> None:
    """What makes latents and embeddings is there, beside the transformer."""
    parts = ("vae/config.json", "text_encoder/config.json", "tokenizer/tokenizer_config.json")
    if missing := [part for part in parts if not (folder / part).is_file()]:
        raise ConfigError(
            f"model.path = {folder}: no {', '.join(missing)} there. Give a whole pipeline folder in diffusers format"
        )


def check_size(config: RunConfig) -> None:
    """Clips fit the codec, the transformer's patches and the method's chunks."""
    data = config.data
    models = Models(config.model.family, config.model.path, config.model.max_sequence_length)
    shown = config.shown_size
    for section, (height, width) in (("data", (data.height, data.width)), ("evaluate", shown[1:])):
        for name, of, whole in zip(("height", "width"), (height, width), models.multiple, strict=True):
            if of % whole:
                near = max(1, of // whole) * whole
                raise ConfigError(
                    f"{section}.{name} = {of}: the model takes multiples of {whole}; use {near} or {near + whole}"
                )
    for clips in (data, *map(data.clips, data.parts)):
        models.latent_shape(clips.frames, data.height, data.width)
    chunks = config.method.sampler().chunks
    for frames in {data.frames, shown[0]}:
        latent = models.latent_shape(frames, data.height, data.width)[1]
        if chunks is not None:
            chunk_lengths(latent, chunks)


def check_data(config: RunConfig) -> None:
    """The datasets are there, and they are what the method and the metric need."""
    listing.check(config.data)
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
    if config.evaluate.metric is not None and not config.data.has_videos:
        raise ConfigError(
            f"evaluate.metric = {config.evaluate.metric}: it compares with real videos, and data has prompts alone; "
            "set evaluate.metric=null, or add a dataset with videos"
        )


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


def warnings(config: RunConfig) -> list[str]:
    """What a run does that its author may not have meant."""
    found = [*schedule.warnings(config), *config.method.warnings(config.computes_in_bf16)]
    if config.data.caption_dropout and not config.method.uses_latents:
        found.append(
            f"data.caption_dropout = {config.data.caption_dropout:g}: method {config.method.name!r} learns from no "
            "data, and such samples teach the student the empty prompt and nothing else. Set it to 0"
        )
    return found


def check_resumable(config: RunConfig, last: checkpoint.Checkpoint) -> None:
    """A run is resumed only as what it was; ConfigError names each key that differs and matters."""
    then, now = flatten(_with_defaults(last.state["config"])), flatten(config.dump())
    fixed = (
        "seed",
        "method.",
        "model.family",
        "data.caption_dropout",
        "data.keep_small_buckets",
        "data.frames",
        "data.stride",
        "data.height",
        "data.width",
        "train.global_batch",
        *(f"roles.{role}.lora" for role in config.method.roles),
    )
    changed = [k for k in sorted(then.keys() | now.keys()) if then.get(k) != now.get(k) and k.startswith(fixed)]
    if changed:
        differences = ", ".join(f"{key} was {then.get(key)} and is {now.get(key)}" for key in changed)
        raise ConfigError(
            f"{last.folder} is another run's: {differences}. Choose another name, or remove {config.run_dir}"
        )
    for role, then_hash in last.state.get("bases", {}).items():
        if config.role(role).lora and weights_hash(config.source(role)) != then_hash:
            raise ConfigError(
                f"{last.folder} holds adapters of {role} that were trained on other weights than {config.source(role)} "
                f"has; give those back, choose another name, or remove {config.run_dir}"
            )


def _with_defaults(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """A stored configuration with the keys that came later, so that a checkpoint outlives them."""
    try:
        return RunConfig.model_validate(stored).dump()
    except ValidationError:
        return stored


def check_pulls(config: RunConfig) -> None:
    """ConfigError where a role should follow another one's weights, and the two do not have the same tensors."""
    steps = range(config.train.steps)
    for pull in {pull for step in steps for update in config.method.updates(step) for pull in update.pulls}:
        roles = pull.role, pull.towards
        why = f"method.{pull.key} = {pull.decay}: {pull.role} follows the weights of {pull.towards}"
        if adapted := [role for role in roles if config.role(role).lora]:
            raise ConfigError(f"{why}, and adapters cannot be averaged; remove roles.{adapted[0]}.lora or {pull.key}")
        own, other = (check_folder(config.model.family, config.source(role)) for role in roles)
        public = {key for key in own.keys() | other.keys() if not key.startswith("_")}
        if different := sorted(key for key in public if own.get(key) != other.get(key)):
            difference = ", ".join(f"{key} is {own.get(key)} and {other.get(key)}" for key in different)
            raise ConfigError(
                f"{why}, but they are of two architectures: {difference}. Give both one path, or remove {pull.key}"
            )
