"""Rules for SimpleTuner's keys on the student's optimizer."""

from __future__ import annotations

from typing import Any, get_args

from ray_distill.config.roles import Optimizer
from ray_distill.simpletuner.outcome import File, Outcome, Rule
from ray_distill.simpletuner.training import global_batch
from ray_distill.simpletuner.values import Refused, flag, number, one_of, text, whole

STUDENT = "roles.student.optimizer"
LR_END = 4e-7  # SimpleTuner's default
SCHEDULES = get_args(Optimizer.model_fields["schedule"].annotation)
ADAMW = ("adamw_bf16", "adamw", "torch-adamw", "optimi-adamw", "bnb-adamw")
OPTIONS = ("weight_decay", "eps")


def optimizer(value: Any, file: File) -> Outcome:
    name = one_of(value, ADAMW)
    return Outcome(note=f"AdamW with fp32 master weights and moments, in place of {name}")


def options(file: File) -> dict[str, float]:
    """The options in ``optimizer_config``, a text name=value,name=value."""
    config = file.settings.get("optimizer_config", "")
    pairs = [pair.partition("=") for pair in text(config).split(",") if pair.strip()]
    for name, equals, _ in pairs:
        if not equals or name.strip() not in OPTIONS:
            raise Refused(
                f"optimizer_config: {name.strip()!r}: known: {', '.join(f'{each}=NUMBER' for each in OPTIONS)}"
            )
    return {name.strip(): number(value) for name, _, value in pairs}


def optimizer_config(value: Any, file: File) -> Outcome:
    return Outcome({f"{STUDENT}.{name}": each for name, each in options(file).items()})


def option(name: str) -> Rule:
    """Rule of a key that ``optimizer_config`` may also set, and then overrides."""

    def rule(value: Any, file: File) -> Outcome:
        if name in options(file):
            return Outcome(note="optimizer_config says it")
        return Outcome({f"{STUDENT}.{name}": number(value)})

    return rule


def rate(file: File) -> float:
    """The student's learning rate, with ``lr_scale`` scaled by the global batch."""
    base = file.read("learning_rate", number, 0.0)
    if not file.flag("lr_scale"):
        return float(base)
    batch = global_batch(file)
    return float(base * (batch**0.5 if file.flag("lr_scale_sqrt") else batch))


def learning_rate(value: Any, file: File) -> Outcome:
    number(value)
    note = f"scaled by a global batch of {global_batch(file)}" if file.flag("lr_scale") else ""
    return Outcome({f"{STUDENT}.learning_rate": rate(file)}, note)


def lr_scale(value: Any, file: File) -> Outcome:
    flag(value)
    return Outcome(note="see learning_rate")


def lr_scale_sqrt(value: Any, file: File) -> Outcome:
    if flag(value) and not file.flag("lr_scale"):
        return Outcome(note="no effect without lr_scale", warn=True)
    return Outcome(note="see learning_rate")


def betas(value: Any, file: File) -> Outcome:
    number(value)
    names = ("optimizer_beta1", "adam_beta1"), ("optimizer_beta2", "adam_beta2")
    values = [next((file.settings[name] for name in pair if name in file.settings), None) for pair in names]
    usual = (0.9, 0.999)
    return Outcome(
        {f"{STUDENT}.betas": [beta if each is None else number(each) for each, beta in zip(values, usual, strict=True)]}
    )


def scheduler(value: Any, file: File) -> Outcome:
    name = one_of(value, SCHEDULES)
    end = file.read("lr_end", number, LR_END if name == "cosine_with_min_lr" else 0.0)
    if name.startswith("constant") or not end:
        return Outcome({f"{STUDENT}.schedule": name})
    if not end < rate(file):
        raise Refused(f"lr_end = {end:g} must be below learning_rate = {rate(file):g}")
    return Outcome(
        {f"{STUDENT}.schedule": name, f"{STUDENT}.min_lr_ratio": float(f"{end / rate(file):.6g}")},
        f"falls to lr_end = {end:g}",
    )


def power(value: Any, file: File) -> Outcome:
    if file.settings.get("lr_scheduler") != "polynomial":
        return Outcome(note="no effect: it belongs to lr_scheduler=polynomial", warn=True)
    return Outcome({f"{STUDENT}.power": number(value)})


def lr_end(value: Any, file: File) -> Outcome:
    if str(file.settings.get("lr_scheduler")).startswith("constant"):
        return Outcome(note="no effect: lr_scheduler does not fall", warn=True)
    return Outcome(note="see lr_scheduler")


def warmup(value: Any, file: File) -> Outcome:
    """Read the warm-up; SimpleTuner's example contradicts itself: its warm-up is as long as its run."""
    updates = whole(value)
    if updates and file.settings.get("lr_scheduler") == "constant":
        return Outcome(note="no effect: constant has no warm-up; use constant_with_warmup", warn=True)
    total = file.overridden.get("train.steps", file.read("max_train_steps", whole, 0))
    interval = max(1, file.of_method("generator_update_interval", whole, 1))
    if not isinstance(total, int) or total < 1 or updates < total // interval:
        return Outcome({f"{STUDENT}.warmup_updates": updates})
    note = f"no shorter than the run, in which the student is updated {total // interval} times: the rate only rises"
    return Outcome({f"{STUDENT}.warmup_updates": updates}, f"{note}, and lr_scheduler has no effect. Lower it")


def max_grad_norm(value: Any, file: File) -> Outcome:
    method = one_of(file.settings.get("grad_clip_method", "value"), ("value", "norm"), "grad_clip_method")
    limit = number(value)
    return Outcome({f"{STUDENT}.clip_{method}": limit} | ({} if limit else {f"{STUDENT}.clip_norm": 0.0}))


def clip_method(value: Any, file: File) -> Outcome:
    one_of(value, ("value", "norm"))
    return Outcome(note="see max_grad_norm")
