"""Rules for DMD's keys of August 2025 that SimpleTuner no longer has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_distill.methods import METHODS
from ray_distill.methods.gan import GAN
from ray_distill.methods.self_forcing import SelfForcing
from ray_distill.simpletuner.optimizer import SCHEDULES
from ray_distill.simpletuner.outcome import File, Key, Outcome
from ray_distill.simpletuner.rules import idle
from ray_distill.simpletuner.values import flag, number, one_of

OPTIMIZER = "roles.fake_score.optimizer"
MIN_LR_RATIO = 0.5  # SimpleTuner's default


def simulate(value: Any, file: File) -> Outcome:
    """Read true: the student's later steps begin from its own rollout; false: from noised clips."""
    if issubclass(METHODS[file.method], SelfForcing):
        return Outcome(note="a causal student always begins from its own rollout", warn=not flag(value))
    return Outcome({"method.backward_simulation": flag(value)})


def schedule(value: Any, file: File) -> Outcome:
    name = one_of(value, SCHEDULES)
    if name.startswith("constant"):
        return Outcome({f"{OPTIMIZER}.schedule": name})
    ratio = file.of_method("min_lr_ratio", number, MIN_LR_RATIO if name == "cosine_with_min_lr" else 0.0)
    return Outcome({f"{OPTIMIZER}.schedule": name, f"{OPTIMIZER}.min_lr_ratio": ratio})


def ratio(value: Any, file: File) -> Outcome:
    number(value)
    if str(file.distillation.get("fake_score_lr_scheduler", "constant")).startswith("constant"):
        return Outcome(note="no effect: fake_score_lr_scheduler does not fall", warn=True)
    return Outcome(note="see fake_score_lr_scheduler")


def adversarial(value: Any, file: File) -> Outcome:
    weight = number(value)
    if issubclass(METHODS[file.method], GAN):
        return Outcome({"method.gan_weight": weight})
    note = "no effect: DMD has no such term; method.name=dmd_gan has one, weighted by method.gan_weight"
    return Outcome(note=note, warn=bool(weight))


DMD_OF_2025: Mapping[str, Key] = {
    "simulate_generator_forward": Key(
        simulate, "`method.backward_simulation`; SimpleTuner has dropped the key and always simulates"
    ),
    "fake_score_lr_scheduler": Key(schedule, f"`{OPTIMIZER}.schedule`"),
    "min_lr_ratio": Key(
        ratio, f"`{OPTIMIZER}.min_lr_ratio`; absent, cosine_with_min_lr falls to {MIN_LR_RATIO:g} of fake_score_lr"
    ),
    "fake_score_use_ema": Key(
        idle("scores are those of the fake score itself, which follows the student at each step"),
        "no effect: scores are those of the fake score itself",
    ),
    "adversarial_weight": Key(adversarial, "`method.gan_weight` with `method.name=dmd_gan`; else no effect"),
    "model_family": Key(idle("model_family beside it says so"), "no effect: it stands beside it, too"),
}
