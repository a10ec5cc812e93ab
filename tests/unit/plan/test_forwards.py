from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import pytest
import torch

from ray_distill.methods import DMD, GAN, METHODS, FlowMatching
from ray_distill.plan.forwards import Call, cycle
from ray_distill.types import LossTerms, Sampler, Update


def expected(found):
    roles = ("student", "fake_score", "teacher")
    return {role: (found.expected(role, True), found.expected(role, False)) for role in roles}


@pytest.mark.parametrize("rollout", ["ode", "sde"])
def test_dmd_in_exact_expectation(rollout):
    """Three exits: a mean of one step before the exit. Guidance doubles the teacher; the student's exit has a gradient
    in its own update only."""
    found = cycle(DMD(timesteps=(1000, 757, 522), student_interval=5, teacher_guidance=4.5, rollout=rollout), 20)
    assert found.steps == 5
    assert expected(found) == {"student": (1, 1 + 5 * 2), "fake_score": (5, 1), "teacher": (0, 2)}
    assert [kind.times for kind in found.kinds] in ([1, 5], [5, 1])


def test_dmd_of_four_steps_without_guidance():
    found = cycle(DMD(timesteps=(1000, 900, 700, 400), student_interval=1, teacher_guidance=1.0), 7)
    assert found.steps == 1
    assert expected(found) == {
        "student": (1, Fraction(3, 2) + Fraction(5, 2)),
        "fake_score": (1, 1),
        "teacher": (0, 1),
    }


def test_every_exit_is_a_path():
    (student,) = (kind for kind in cycle(DMD(timesteps=(1000, 757, 522)), 20).kinds if kind.role == "student")
    assert [path.weight for path in student.paths] == [Fraction(1, 3)] * 3
    assert [len([c for c in path.calls if c == Call("student", 1, False)]) for path in student.paths] == [0, 1, 2]


@pytest.mark.parametrize("features", ["teacher", "fake_score"])
def test_what_heads_look_at(features):
    """One pass with gradient for the student's term, real and fake without for each of the discriminator's updates,
    which take the fake score's rollout."""
    plain = cycle(DMD(timesteps=(1000,), student_interval=5), 5)
    found = cycle(GAN(timesteps=(1000,), student_interval=5, gan_features=features), 5)
    more = {role: (a - c, b - d) for role, (a, b) in expected(found).items() for c, d in [expected(plain)[role]]}
    assert more == {"student": (0, 0), "fake_score": (0, 0), "teacher": (0, 0)} | {features: (1, 10)}
    (student,) = (kind for kind in found.kinds if kind.role == "student")
    assert {(c.role, c.trained) for c in student.paths[0].calls if c.grad} == {("student", True), (features, False)}
    assert not any(c.role == "discriminator" for kind in found.kinds for path in kind.paths for c in path.calls)


def test_updates_of_one_step_share_what_they_share_in_training():
    """With ``reuse_rollout`` the fake score has no rollout of its own in the student's step. A discriminator that takes
    its turn there looks at real clips alone."""
    plain = expected(cycle(DMD(timesteps=(1000,), student_interval=5), 5))
    reused = expected(cycle(DMD(timesteps=(1000,), student_interval=5, reuse_rollout=True), 5))
    assert reused == plain | {"student": (plain["student"][0], plain["student"][1] - 1)}
    turn = {"discriminator_turn": "student", "reuse_rollout": True}
    found = expected(cycle(GAN(timesteps=(1000,), student_interval=5, **turn), 5))
    assert found == reused | {"teacher": (1, plain["teacher"][1] + 1)}


def test_flow_matching():
    found = cycle(FlowMatching(), 3)
    assert (found.steps, found.expected("student", True), found.expected("student", False)) == (1, 1, 0)


@dataclass(frozen=True)
class Late:
    """A made-up method: a term of its own from step 3 on, and a loss of two nested draws."""

    name = "late"
    period = (3, 1)
    roles: ClassVar = {"student": "trained"}
    heads: ClassVar = {}
    uses_latents = False
    streamed = None

    def sampler(self):
        return Sampler((1000.0,), "ode")

    def updates(self, step):
        early = Update("student", self.early)
        return (early, Update("student", self.late)) if step >= 3 else (early,)

    def early(self, networks, batch, rng, shared):
        return LossTerms(networks["student"](batch.x_0, torch.zeros(2), batch.cond).velocity.sum())

    def late(self, networks, batch, rng, shared):
        with torch.no_grad():
            for i in range(rng.control("a", 3)):
                for _ in range(rng.control(f"b{i}", 2)):
                    networks["student"](batch.x_0, torch.zeros(2), batch.cond)
        return self.early(networks, batch, rng, shared)


def test_a_run_that_never_repeats_is_its_own_cycle():
    found = cycle(Late(), 5)
    assert found.steps == 5
    # 5 early and 2 late updates; a late one draws 0, 1 or 2 coins of mean 1/2 each.
    assert found.expected("student", True) == 7
    assert found.expected("student", False) == 2 * Fraction(1, 2)
    assert sum(path.weight for path in found.kinds[-1].paths) == 1


def test_guidance_of_sound_alone_costs_two_calls():
    plain, silent, both = (
        cycle(DMD(teacher_guidance=scale, audio_guidance=audio), 5).expected("teacher", False)
        for scale, audio in ((1.0, None), (1.0, 7.0), (3.0, 7.0))
    )
    assert silent == both == 2 * plain > 0


@pytest.mark.parametrize("name", ["dmd", "dmd_warm_start", "lcm"])
def test_a_long_run_is_counted_without_being_walked(name):
    """The counts of 40 steps are those of a plain walk; a run of 10^9 steps, which nobody could walk, has the rates of
    its last period."""
    method = METHODS[name](**({"warm_start_steps": 7} if name == "dmd_warm_start" else {}))
    short, long = cycle(method, 40), cycle(method, 10**9)
    walked = Counter(update.role for step in range(short.steps) for update in method.updates(step))
    assert sum((Counter({kind.role: kind.times}) for kind in short.kinds), Counter()) == walked
    first, length = method.period
    last = Counter(update.role for step in range(first, first + length) for update in method.updates(step))
    for role, times in last.items():
        counted = sum(kind.times for kind in long.kinds if kind.role == role)
        assert counted / long.steps == pytest.approx(times / length, abs=1e-6)
