"""Begin a new run with the weights of another run's checkpoint (`train.init_from`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray_distill.checkpoint import BadCheckpoint, Checkpoint, latest
from ray_distill.config import ConfigError, RunConfig
from ray_distill.models.hashing import weights_hash
from ray_distill.models.heads import head_blocks, random_heads
from ray_distill.models.loading import empty_transformer
from ray_distill.train.driver.resume import with_defaults, with_loras
from ray_distill.types import STUDENT, Role, Start


def check_init(config: RunConfig, tell: Callable[[str], None] = lambda _: None) -> None:
    """ConfigError unless ``train.init_from`` is a checkpoint whose weights fit the trained roles."""
    folder = config.train.init_from
    if folder is None:
        return
    key = f"train.init_from = {folder}"
    origin = _checkpoint(folder, key)
    roles = [role for role, need in config.method.roles.items() if need == "trained"]
    counters = origin.state.get("roles", {})
    if STUDENT not in counters:
        raise ConfigError(
            f"{key}: this checkpoint has no {STUDENT}, but {', '.join(counters) or 'nothing'}; give one of a run that "
            f"trains a {STUDENT}"
        )
    if starts := [role for role, need in config.method.roles.items() if isinstance(need, Start)]:
        raise ConfigError(
            f"{key}: method {config.method.name!r} also samples with its student's first weights ({starts[0]}): "
            f"export this checkpoint, and give the exported folder as roles.{STUDENT}.path"
        )
    for role in roles:
        if role in counters:
            _check_role(config, role, origin, key)
        else:
            tell(f"train.init_from: {origin.folder} has no {role}, so this role begins as in any run")


def _checkpoint(folder: Path, key: str) -> Checkpoint:
    try:
        origin = Checkpoint(folder)
        origin.verify(thorough=False)
        return origin
    except BadCheckpoint as error:
        within = latest(folder, tell=lambda _: None) if folder.is_dir() else None
        if within is not None:
            raise ConfigError(f"{key}: give one of its checkpoints, such as {within.folder}") from None
        fault = str(error).removeprefix(f"{folder}: ")
        raise ConfigError(f"{key}: {fault}; give the folder of a whole checkpoint") from None


def _check_role(config: RunConfig, role: Role, origin: Checkpoint, key: str) -> None:
    source = config.source(role)
    then, now = (
        (tree.get("roles", {}).get(role) or {}).get("lora")
        for tree in (with_defaults(origin.state["config"]), config.dump())
    )
    if then != now:
        raise ConfigError(
            f"{key}: roles.{role}.lora was {then} and is {now}: give the same lora, or export this checkpoint and "
            f"give the exported folder as roles.{role}.path"
        )
    if now:
        if origin.state.get("bases", {}).get(role) != weights_hash(source, config.loras(role)):
            raise ConfigError(
                f"{key}: its adapters of {role} were trained on other weights than those of "
                f"{source}{with_loras(config, role)}; give roles.{role}.path, and model.loras, the weights of that run"
            )
        return
    shapes = origin.shapes(role, "weights")
    needed = {name: tuple(tensor.shape) for name, tensor in _network(config, role).named_parameters()}
    if differing := sorted(name for name in needed if shapes.get(name) != needed[name]):
        name = differing[0]
        raise ConfigError(
            f"{key}: its {role} is another network than {source}: {name} is {shapes.get(name, 'missing')} and should "
            f"be {needed[name]} ({len(differing)} tensors differ)"
        )


def _network(config: RunConfig, role: Role) -> Any:
    if heads := config.method.heads.get(role):
        described = config.pipeline(heads.of).transformer
        blocks, widths = head_blocks(role, heads, config.model.family, described)
        return random_heads(len(blocks), widths, config.seed)
    return empty_transformer(config.model.family, config.source(role))
