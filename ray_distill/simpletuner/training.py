"""Rules for SimpleTuner's keys on length, batch, average and shift of the training."""

from __future__ import annotations

from typing import Any

from ray_distill.simpletuner.outcome import File, Outcome
from ray_distill.simpletuner.values import Refused, flag, number, one_of, one_or_more, whole
from ray_distill.types import FAKE_SCORE

EMA_DECAY = 0.995  # SimpleTuner's default


def train_steps(value: Any, file: File) -> Outcome:
    count, epochs = whole(value), file.read("num_train_epochs", whole, 0)
    if file.overrides("train.steps"):
        return Outcome(note="train.steps is set elsewhere")
    if (count > 0) == (epochs > 0):
        raise Refused(f"exactly one of max_train_steps and num_train_epochs = {epochs} must be above 0")
    return Outcome({"train.steps": count} if count else {}, "" if count else "num_train_epochs says how long")


def epochs(value: Any, file: File) -> Outcome:
    count = whole(value)
    if not count or file.overrides("train.steps"):
        return Outcome(note="train.steps says how long")
    if file.read("max_train_steps", whole, 0):
        raise Refused(f"max_train_steps = {file.settings['max_train_steps']}: exactly one of them must be above 0")
    if not file.samples:
        raise Refused("the data, which give the length of an epoch, cannot be read; give max_train_steps instead")
    batches = -(-file.samples // global_batch(file))
    return Outcome(
        {"train.steps": count * batches}, f"{count} x {batches} batches for the {file.samples} samples of the data"
    )


def global_batch(file: File) -> int:
    size, more = (file.read(key, one_or_more, 1) for key in ("train_batch_size", "gradient_accumulation_steps"))
    return int(size * more * file.workers)


def micro_batch(value: Any, file: File) -> Outcome:
    total = global_batch(file)
    return Outcome(
        {"train.micro_batch": whole(value), "train.global_batch": total},
        f"per worker; train.workers = {file.workers} make a global batch of {total}",
    )


def accumulation(value: Any, file: File) -> Outcome:
    return Outcome({"train.global_batch": global_batch(file)})


def workers(value: Any, file: File) -> Outcome:
    if file.overrides("train.workers"):
        return Outcome(note="train.workers is set elsewhere")
    return Outcome({"train.workers": whole(value)}, "one for each process")


def epoch_limit(value: Any, file: File) -> Outcome:
    flag(value)
    return Outcome(note="max_train_steps alone says how long, or num_train_epochs does")


def use_ema(value: Any, file: File) -> Outcome:
    if not flag(value):
        return Outcome(note="no average is kept; the average of a few-step student is mostly better", warn=True)
    average = {"roles.student.ema_decay": file.read("ema_decay", number, EMA_DECAY), "roles.student.ema_warmup": True}
    return Outcome(average)


def of_ema(key: str, read: Any) -> Any:
    def rule(value: Any, file: File) -> Outcome:
        if not file.flag("use_ema"):
            return Outcome(note="no effect: use_ema is false", warn=True)
        return Outcome({key: read(value)})

    return rule


def ema_validation(value: Any) -> str:
    kinds = {"none": "trained", "ema_only": "average", "comparison": "both"}
    return kinds[one_of(value, kinds)]


def flow_shift(value: Any, file: File) -> Outcome:
    shift = number(value)
    if FAKE_SCORE not in file.roles:
        return Outcome({"method.shift": shift, "evaluate.teacher_shift": shift})
    if not file.of_method("warp_denoising_step", flag, False):
        return Outcome({"evaluate.teacher_shift": shift}, "dmd_denoising_steps are timesteps, shifted already")
    return Outcome({"method.flow_shift": shift, "evaluate.teacher_shift": shift})
