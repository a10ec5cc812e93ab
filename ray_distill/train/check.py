"""What can be known to fail before a cluster starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ray_distill import checkpoint
from ray_distill.config import ConfigError, RunConfig
from ray_distill.config.keys import flatten
from ray_distill.diffusion.causal import chunk_lengths
from ray_distill.models.codec import load_codec
from ray_distill.models.heads import placed
from ray_distill.models.loading import check_folder, empty_transformer
from ray_distill.models.lora import check_targets


def check(config: RunConfig) -> None:
    """What can be known to fail is known before a cluster starts; raises ConfigError or ValueError."""
    for role in config.method.roles:
        folder = check_folder(
            config.model.family, config.source(role), f"roles.{role}.path" if config.role(role).path else "model.path"
        )
        for name, heads in config.method.heads.items():
            if heads.of == role:
                placed(name, heads, config.model.family, folder)
        if lora := config.role(role).lora:
            check_targets(lora, empty_transformer(config.model.family, config.source(role)), f"roles.{role}.lora")
    metric = config.evaluate.metric
    if metric is not None and not (metric / "config.json").is_file():
        raise ConfigError(f"evaluate.metric = {metric}: no config.json there; remove the key to do without a metric")
    if not config.data.manifest.is_file():
        raise ConfigError(f"data.manifest = {config.data.manifest}: no such file")
    chunks, data = config.method.sampler().chunks, config.data
    if chunks is not None:
        codec = load_codec(config.model.path / "vae")
        chunk_lengths(codec.latent_shape(data.frames, data.height, data.width)[1], chunks)
    last = checkpoint.latest(config.run_dir)
    if last is not None:
        check_resumable(config, last)
    check_pulls(config)


def check_resumable(config: RunConfig, last: checkpoint.Checkpoint) -> None:
    """A run is resumed only as what it was; ConfigError names each key that differs and matters."""
    then, now = flatten(_with_defaults(last.state["config"])), flatten(config.dump())
    fixed = (
        "seed",
        "method.",
        "model.family",
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
