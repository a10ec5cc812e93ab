"""Check that the roles on one shared base agree with one another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray_distill.config.roles import RoleConfig
from ray_distill.types import LOW, TEACHER, TEACHER_LOW, Role

if TYPE_CHECKING:
    from ray_distill.config.schema import RunConfig

KEY = "model.shared_base = true"


def check_shared_base(config: RunConfig) -> None:
    """ValueError for a role that cannot be an adapter on the teacher's network, with its key."""
    method = config.method
    if method.roles.get(TEACHER) != "frozen":
        raise ValueError(
            f"{KEY}: the base is the frozen teacher, and method {method.name!r} has none; remove model.shared_base"
        )
    for base in sorted({base_of(role) for role in config.held_roles}):
        _check_base(base, config.role(base))
    for role in config.held_roles:
        base = base_of(role)
        if role == base or role in method.heads:
            continue
        if role in method.exits:
            raise ValueError(
                f"{KEY}: method.exit_embedding = true: {role} is an adapter on the teacher's network, which takes no "
                "embedding of its own; remove exit_embedding, or shared_base"
            )
        if method.roles[role] == "frozen":
            raise ValueError(f"{KEY}: roles.{role} is frozen, too, and would need a second network; remove shared_base")
        _check_adapter(role, config.role(role), base, config.role(base))
        if config.source(role) != config.source(base):
            raise ValueError(
                f"{KEY}: {role} starts from {config.source(role)} and the base is {config.source(base)}; give both "
                "one path, or remove shared_base"
            )


def base_of(role: Role) -> Role:
    """The teacher whose network is the base of ``role``, which may be that teacher; each of two experts has its own."""
    return TEACHER_LOW if role in LOW else TEACHER


def _check_base(role: Role, base: RoleConfig) -> None:
    if base.init != "pretrained":
        raise ValueError(
            f"{KEY}: roles.{role}.init = {base.init!r}: adapters are merged into the weights of its path; remove init"
        )


def _check_adapter(role: Role, section: RoleConfig, teacher: Role, base: RoleConfig) -> None:
    if section.lora is None:
        raise ValueError(
            f"{KEY}: roles.{role} is trained whole, and the base is frozen; give it lora, or remove shared_base"
        )
    if section.lora.whole:
        raise ValueError(
            f"{KEY}: roles.{role}.lora.whole = {list(section.lora.whole)}: these parts belong to the base, which is "
            "frozen; remove whole, or shared_base"
        )
    if section.zero == 3:
        raise ValueError(
            f"{KEY}: roles.{role}.zero = 3: its adapter is whole on each worker; use 1 or 2, which shard its "
            f"optimizer, or 0, and roles.{teacher}.zero = 3 for the base"
        )
    nothing = RoleConfig()
    for key in ("dtype", "base_precision", "attention", "compile", "offload_parameters"):
        own, bases = getattr(section, key), getattr(base, key)
        if own != bases and (key == "dtype" or own != getattr(nothing, key)):
            raise ValueError(
                f"{KEY}: roles.{role}.{key} = {own!r} and roles.{teacher}.{key} = {bases!r}: the base has one value; "
                "make the two equal"
            )
