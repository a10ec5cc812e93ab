"""Every role's transformer: its files, its ends, and what is put on it."""

from __future__ import annotations

from typing import Any

from ray_distill.config import ConfigError, RunConfig
from ray_distill.models import family as adapter
from ray_distill.models.heads import placed
from ray_distill.models.loading import check_attention, check_folder, check_weights, empty_transformer
from ray_distill.models.lora import check_targets
from ray_distill.train.schedule import distinct


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


def check_pulls(config: RunConfig) -> None:
    """ConfigError where a role should follow another one's weights, and the two do not have the same tensors."""
    steps = distinct(config.method, config.train.steps)
    for pull in {pull for _, updates in steps for update in updates for pull in update.pulls}:
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
