"""Rules for the roles' networks: their classes, weights, attention and dtype."""

from __future__ import annotations

from typing import Any

from ray_distill.fastvideo.file import File
from ray_distill.simpletuner.outcome import Outcome
from ray_distill.simpletuner.values import Refused, flag, number, text

TRAINED = "fastvideo.train.models"
MODELS = {f"{TRAINED}.wan.WanModel": False, f"{TRAINED}.wan.WanCausalModel": True}
"""Class of a role's network -> whether it is causal."""
BACKENDS = {"TORCH_SDPA": "native", "FLASH_ATTN": "flash", "SAGE_ATTN": "sage"}
"""FastVideo's attention -> diffusers' name."""


def network(key: str, value: Any, file: File) -> Outcome:
    if text(value) not in MODELS:
        raise Refused(f"only Wan is imported: {', '.join(MODELS)}")
    causal = file.causal and file.role_of(key) == "student"
    if MODELS[value] != causal:
        raise Refused(
            f"{'Self-Forcing needs a causal student' if causal else 'this role sees whole clips'}; use the other class"
        )
    return Outcome({"model.family": "wan"})


def init_from(key: str, value: Any, file: File) -> Outcome:
    """Take the teacher's folder as the pipeline, and another role's as its path where it differs."""
    role, own = file.role_of(key), text(value)
    if role == "teacher":
        return Outcome({"model.path": own})
    if (
        own == file.settings.get("models.teacher.init_from")
        or f"models.{key.split('.')[1]}.transformer_override_safetensor" in file.settings
    ):
        return Outcome(note="the pipeline's network, or the file of transformer_override_safetensor")
    return Outcome({f"roles.{role}.path": own})


def override(key: str, value: Any, file: File) -> Outcome:
    role = file.role_of(key)
    if role == "teacher" or file.overrides(f"roles.{role}.path"):
        return Outcome({f"roles.{role}.path": text(value)})
    return Outcome({f"roles.{role}.path": str(file.locate(value))})


def trainable(key: str, value: Any, file: File) -> Outcome:
    if flag(value) == (file.role_of(key) == "teacher"):
        raise Refused("student and critic are trained, and the teacher is not; remove the key")
    return Outcome(note="as here")


def attention(key: str, value: Any, file: File) -> Outcome:
    if str(value) not in BACKENDS:
        raise Refused(f"use one of {', '.join(BACKENDS)}; sparse attention is not imported")
    return Outcome({f"roles.{file.role_of(key)}.attention": BACKENDS[str(value)]})


def checkpointing(key: str, value: Any, file: File) -> Outcome:
    if value != "full":
        raise Refused("only full is imported: each block is recomputed")
    if not key.startswith("models."):
        return Outcome({f"roles.{role}.gradient_checkpointing": True for role in ("student", "fake_score")})
    role = file.role_of(key)
    if role == "teacher":
        return Outcome(note="no effect: the teacher has no backward")
    return Outcome({f"roles.{role}.gradient_checkpointing": True})


def shift(key: str, value: Any, file: File) -> Outcome:
    if file.role_of(key) != "student":
        return Outcome(note="no effect: all roles see the noise levels that the student's shift draws")
    return Outcome({"method.score_shift": number(value)})


def precision(key: str, value: Any, file: File) -> Outcome:
    if value not in ("fp32", "bf16"):
        raise Refused("use fp32 or bf16")
    note = "masters are fp32 and networks compute in bf16, as FastVideo's do under fp32"
    return Outcome(
        {f"roles.{role}.dtype": "bfloat16" for role in ("student", "fake_score", "teacher")}, note, value == "bf16"
    )


def compiled(key: str, value: Any, file: File) -> Outcome:
    note = (
        "not of the teacher, which ZeRO-3 shards; with roles.teacher.zero=0 it may compile, too" if flag(value) else ""
    )
    return Outcome({f"roles.{role}.compile": flag(value) for role in ("student", "fake_score")}, note)
