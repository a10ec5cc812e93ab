"""Learning rates and decays as pure functions of the number of a role's updates."""

from __future__ import annotations

import math

from ray_distill.config import RunConfig
from ray_distill.config.roles import Optimizer, RoleConfig
from ray_distill.config.stages import distinct
from ray_distill.types import Role

MOST_OF_FIRST = 0.5
"""Share of a role's first weights in its average above which a run is warned."""


def learning_rate(optimizer: Optimizer, update: int, total: int) -> float:
    """Rate of update number ``update`` (from 0) of ``total``: linear warm-up, then the schedule.

    A falling schedule ends at min_lr_ratio x learning_rate, in the first update after the last.
    """
    if update < optimizer.warmup_updates:
        return optimizer.learning_rate * (update + 1) / optimizer.warmup_updates
    left = max(0.0, 1 - (update - optimizer.warmup_updates) / max(1, total - optimizer.warmup_updates))
    match optimizer.schedule:
        case "constant" | "constant_with_warmup":
            return optimizer.learning_rate
        case "linear":
            height = left
        case "cosine" | "cosine_with_min_lr":
            height = 0.5 * (1 - math.cos(math.pi * left))
        case "polynomial":
            height = left**optimizer.power
    return optimizer.learning_rate * (optimizer.min_lr_ratio + (1 - optimizer.min_lr_ratio) * height)


def warm_decay(updates: int) -> float:
    """Largest decay of a role's average after ``updates`` of the role under ema_warmup: 0 after the first, then
    n / (n + 9), as diffusers' EMAModel has it."""
    return updates / (updates + 9) if updates > 1 else 0.0


def first_share(role: RoleConfig, updates: int) -> float:
    """Share of a role's first weights that its average still holds after ``updates`` of the role."""
    if role.ema_decay is None or role.ema_warmup:
        return 0.0
    return float(role.ema_decay ** (updates // role.ema_interval))


def warnings(config: RunConfig) -> list[str]:
    """Warnings of schedules that may be unintended: a warm start or a warm-up that fills the run, an average that
    hardly moves."""
    texts = []
    start, length = config.method.period
    if start and not config.method.stages and config.train.steps < start + length:
        texts.append(
            f"train.steps = {config.train.steps}: the warm start has method.warm_start_steps = {start}, and the "
            f"student's first update after it is in step {start + length}, so this run distils nothing. Raise "
            "train.steps, or lower method.warm_start_steps"
        )
    for role, total in total_updates(config).items():
        section = config.role(role)
        share = first_share(section, total)
        if share > MOST_OF_FIRST and config.evaluate.weights != "trained":
            texts.append(
                f"roles.{role}.ema_decay = {section.ema_decay:g}: after this run's {total} updates of {role} its "
                f"average, which is evaluated and exported, is still {share:.0%} the weights that it began with. Set "
                f"roles.{role}.ema_warmup: true, or a decay of at most {_forgets(total // section.ema_interval):.3g}"
            )
        optimizer = section.optimizer
        if optimizer is not None and optimizer.warmup_updates >= total:
            reached = learning_rate(optimizer, total - 1, total)
            texts.append(
                f"roles.{role}.optimizer.warmup_updates = {optimizer.warmup_updates}: this run has {total} updates of "
                f"{role}, all of them warm-up; its rate ends at {reached:.3g} of {optimizer.learning_rate:.3g}, and "
                f"schedule {optimizer.schedule!r} has no effect. Lower warmup_updates"
            )
    return texts


def _forgets(moves: int) -> float:
    """The decay that leaves a twentieth of the first weights after ``moves`` of an average, rounded down."""
    return math.floor(1000 * 0.05 ** (1 / max(1, moves))) / 1000


def total_updates(config: RunConfig) -> dict[Role, int]:
    """Updates of each role in the whole run: the length of its learning-rate schedule."""
    counts: dict[Role, int] = {}
    for times, updates in distinct(config.method, config.train.steps):
        for update in updates:
            counts[update.role] = counts.get(update.role, 0) + times
    return counts
