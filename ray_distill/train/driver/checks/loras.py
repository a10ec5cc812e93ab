"""Check the LoRAs of model.loras: their files, their experts, and that the teachers get them."""

from __future__ import annotations

from ray_distill.config import ConfigError, RunConfig
from ray_distill.models.loading import check_loras as check_files
from ray_distill.models.places import SECOND

KEY = "model.loras"


def check_loras(config: RunConfig) -> None:
    """ConfigError for LoRAs that cannot be merged into the transformers of model.path, or that no teacher would get.

    Only the headers of files are read."""
    if not config.model.loras:
        return
    _check_experts(config)
    _check_roles(config)
    for source, loras in {config.source(role): config.loras(role) for role in config.method.roles}.items():
        check_files(config.model.family, source, loras)


def _check_experts(config: RunConfig) -> None:
    two = (config.model.path / SECOND).is_dir()
    for number, lora in enumerate(config.model.loras):
        where = f"{KEY}.{number}"
        if two and lora.expert is None:
            raise ConfigError(
                f"{where}: {config.model.path} has two experts; say which one {lora.path.name} belongs to: "
                "expert: high, low, or both"
            )
        if not two and lora.expert is not None:
            raise ConfigError(
                f"{where}.expert = {lora.expert}: {config.model.path} has one transformer and no experts; remove expert"
            )


def _check_roles(config: RunConfig) -> None:
    """Check that each frozen role gets the LoRAs, and that some role gets each of them."""
    roles = [role for role, need in config.method.roles.items() if role not in config.method.heads]
    for role in (role for role in roles if config.method.roles[role] == "frozen"):
        section = config.role(role)
        if section.path is not None or section.init == "random":
            own = f"path = {section.path}" if section.path is not None else "init = random"
            raise ConfigError(
                f"{KEY}: they are merged into the weights of model.path, and roles.{role}.{own} names others, so that "
                f"the run would not learn from the LoRAs; give these weights as model.path, or remove {KEY}"
            )
    for number, lora in enumerate(config.model.loras):
        if not any(lora in config.loras(role) for role in roles):
            raise ConfigError(f"{KEY}.{number}: no role begins from the weights that {lora.path.name} belongs to")
