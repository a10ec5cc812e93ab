"""Check that the roles on one shared base agree with one another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray_distill.config.roles import RoleConfig
from ray_distill.types import TEACHER, Role

if TYPE_CHECKING:
    from ray_distill.config.schema import RunConfig

KEY = "model.shared_base = true"


def check_shared_base(config: RunConfig) -> None:
    """ValueError names the key of a role that cannot be an adapter on the teacher's network."""
    method = config.method
    if method.roles.get(TEACHER) != "frozen":
        raise ValueError(f"{KEY}: the base is the frozen teacher, and method {method.name!r} has none; remove it")
    base = config.role(TEACHER)
    if base.init != "pretrained":
        raise ValueError(
            f"{KEY}: roles.{TEACHER}.init = {base.init!r}: adapters are merged into the weights of its path; remove "
            "init"
        )
    for role in config.held_roles:
        if role == TEACHER or role in method.heads:
            continue
        if role in method.exits:
            raise ValueError(
                f"{KEY}: method.exit_embedding = true: {role} is an adapter on the teacher's network, which takes no "
                "embedding of its own; remove exit_embedding, or shared_base"
            )
        if method.roles[role] == "frozen":
            raise ValueError(f"{KEY}: roles.{role} is frozen, and would be a second network; remove shared_base")
        _check_adapter(role, config.role(role), base)
        if config.source(role) != config.source(TEACHER):
            raise ValueError(
                f"{KEY}: {role} starts from {config.source(role)} and the base is {config.source(TEACHER)}; give both "
                "one path, or remove shared_base"
            )


def _check_adapter(role: Role, held: RoleConfig, base: RoleConfig) -> None:
    if held.lora is None:
        raise ValueError(
            f"{KEY}: roles.{role} is trained whole, and the base is frozen; give it lora, or remove shared_base"
        )
    if held.lora.whole:
        raise ValueError(
            f"{KEY}: roles.{role}.lora.whole = {list(held.lora.whole)}: these parts are the base's, which is frozen; "
            "remove whole, or shared_base"
        )
    if held.zero == 3:
        raise ValueError(
            f"{KEY}: roles.{role}.zero = 3: its adapter is whole on each worker; use 1 or 2, which shard its "
            f"optimizer, or 0, and roles.{TEACHER}.zero = 3 for the base"
        )
    nothing = RoleConfig()
    for key in ("dtype", "base_precision", "attention", "compile", "offload_parameters"):
        own, wanted = getattr(held, key), getattr(base, key)
        if own != wanted and (key == "dtype" or own != getattr(nothing, key)):
            raise ValueError(
                f"{KEY}: roles.{role}.{key} = {own!r} and roles.{TEACHER}.{key} = {wanted!r}: the base has one; make "
                "them equal"
            )
