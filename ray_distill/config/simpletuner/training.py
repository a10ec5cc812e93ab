"""Optimizer, length, batch and average: rules for SimpleTuner's keys."""

from __future__ import annotations

from typing import Any

from ray_distill.config.roles import Optimizer
from ray_distill.config.simpletuner.outcome import File, Outcome, Refused, flag, number, one_of, whole
from ray_distill.types import FAKE_SCORE

STUDENT = "roles.student.optimizer"
EMA_DECAY, LR_END = 0.995, 4e-7  # SimpleTuner's defaults


def optimizer(value: Any, file: File) -> Outcome:
    known = ("adamw_bf16", "adamw", "torch-adamw", "optimi-adamw", "bnb-adamw")
    return Outcome(note=f"AdamW with fp32 master weights and moments, in place of {one_of(value, known)}")


def scheduler(value: Any, file: File) -> Outcome:
    known = [name for name in Optimizer.model_fields["schedule"].annotation.__args__]  # type: ignore[union-attr]
    name = one_of(value, known)
    end = number(file.given.get("lr_end", LR_END if name == "cosine_with_min_lr" else 0))
    if name.startswith("constant") or not end:
        return Outcome({f"{STUDENT}.schedule": name})
    rate = number(file.given.get("learning_rate", 0))
    if not end < rate:
        raise Refused(f"lr_end = {end:g} must be below learning_rate = {rate:g}")
    return Outcome(
        {f"{STUDENT}.schedule": name, f"{STUDENT}.min_lr_ratio": float(f"{end / rate:.6g}")},
        f"falls to lr_end = {end:g}",
    )


def lr_end(value: Any, file: File) -> Outcome:
    if str(file.given.get("lr_scheduler")).startswith("constant"):
        return Outcome(note="no effect: lr_scheduler does not fall", warn=True)
    return Outcome(note="see lr_scheduler")


def warmup(value: Any, file: File) -> Outcome:
    """The seed's own contradiction is said here: its warm-up is as long as its run."""
    updates = whole(value)
    if updates and file.given.get("lr_scheduler") == "constant":
        return Outcome(note="no effect: constant has no warm-up; use constant_with_warmup", warn=True)
    total = file.overridden.get("train.steps", file.given.get("max_train_steps"))
    interval = file.distillation.get("generator_update_interval", 1)
    if not isinstance(total, int) or not isinstance(interval, int) or total < 1 or updates < total // max(interval, 1):
        return Outcome({f"{STUDENT}.warmup_updates": updates})
    note = f"no shorter than the run, in which the student is updated {total // interval} times: its rate only rises"
    return Outcome({f"{STUDENT}.warmup_updates": updates}, f"{note}, and lr_scheduler has no effect. Lower it")


def betas(value: Any, file: File) -> Outcome:
    given = [number(file.given.get(f"optimizer_beta{i}", usual)) for i, usual in ((1, 0.9), (2, 0.999))]
    return Outcome({f"{STUDENT}.betas": given})


def train_steps(value: Any, file: File) -> Outcome:
    count, epochs = whole(value or 0), whole(file.given.get("num_train_epochs") or 0)
    if file.overrides("train.steps"):
        return Outcome(note="train.steps is set elsewhere")
    if (count > 0) == (epochs > 0):
        raise Refused(f"exactly one of max_train_steps and num_train_epochs = {epochs} must be above 0")
    return Outcome({"train.steps": count} if count else {}, "" if count else "num_train_epochs says how long")


def epochs(value: Any, file: File) -> Outcome:
    count = whole(value or 0)
    if not count or file.overrides("train.steps"):
        return Outcome(note="train.steps says how long")
    if whole(file.given.get("max_train_steps") or 0):
        raise Refused(f"max_train_steps = {file.given['max_train_steps']}: exactly one of them must be above 0")
    if not file.samples:
        raise Refused("an epoch is counted by the data, and the data cannot be read; give max_train_steps in its place")
    batches = -(-file.samples // global_batch(file))
    return Outcome(
        {"train.steps": count * batches}, f"{count} x {batches} batches for the {file.samples} samples of the data"
    )


def global_batch(file: File) -> int:
    size, more = (whole(file.given.get(key, 1)) for key in ("train_batch_size", "gradient_accumulation_steps"))
    return size * more * file.workers


def micro_batch(value: Any, file: File) -> Outcome:
    total = global_batch(file)
    return Outcome(
        {"train.micro_batch": whole(value), "train.global_batch": total},
        f"per worker; train.workers = {file.workers} make a global batch of {total}",
    )


def accumulation(value: Any, file: File) -> Outcome:
    return Outcome({"train.global_batch": global_batch(file)})


def max_grad_norm(value: Any, file: File) -> Outcome:
    method = one_of(file.given.get("grad_clip_method", "value"), ("value", "norm"), "grad_clip_method")
    return Outcome({f"{STUDENT}.clip_{method}": number(value)} | ({f"{STUDENT}.clip_norm": 0.0} if not value else {}))


def clip_method(value: Any, file: File) -> Outcome:
    one_of(value, ("value", "norm"))
    return Outcome(note="see max_grad_norm")


def use_ema(value: Any, file: File) -> Outcome:
    if not flag(value):
        return Outcome(note="no average is kept; few-step students are mostly better as an average", warn=True)
    return Outcome({"roles.student.ema_decay": number(file.given.get("ema_decay", EMA_DECAY))})


def of_ema(key: str, read: Any) -> Any:
    def rule(value: Any, file: File) -> Outcome:
        if not file.flag("use_ema"):
            return Outcome(note="no effect: use_ema is false", warn=True)
        return Outcome({key: read(value)})

    return rule


def ema_validation(value: Any) -> str:
    known = {"none": "trained", "ema_only": "average", "comparison": "both"}
    return known[one_of(value, known)]


def flow_shift(value: Any, file: File) -> Outcome:
    shift = number(value)
    if FAKE_SCORE not in file.roles:
        return Outcome({"method.shift": shift, "evaluate.teacher_shift": shift})
    note = "" if file.distillation.get("warp_denoising_step") else "dmd_denoising_steps are timesteps, shifted already"
    return Outcome({"method.flow_shift": shift, "evaluate.teacher_shift": shift}, note)
