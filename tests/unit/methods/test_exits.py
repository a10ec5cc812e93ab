"""Which exits are drawn, how the fake score learns of them, and why it matters in closed form."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare

from ray_distill.methods import DMD, METHODS
from ray_distill.models.exits import NAME, add_exits
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.plan.forwards import cycle
from ray_distill.rng import StatelessRng
from tests.tiny_wan import SHAPE, TEXT, tiny_wan
from tests.unit.toys import Gaussian, batch, run_config

RNG = StatelessRng(0)


class ExitAt(StatelessRng):
    """The run's randomness with the whole number given."""

    def control(self, purpose, high):
        return self.step


def drawn(method, purpose, count=2000):
    return torch.bincount(torch.tensor([method.exit_step(RNG.at(i), purpose) for i in range(count)]), minlength=3)


# Which exits


def test_exits_come_with_their_weights():
    method = DMD(student_exits=(1, 2, 1), fake_score_exits=(0, 0, 1))
    assert chisquare(drawn(method, "student").numpy(), [500, 1000, 500]).pvalue > 1e-3
    assert drawn(method, "fake_score").tolist() == [0, 0, 2000]


def test_equal_weights_are_the_draws_of_no_weights():
    for purpose in ("student", "fake_score", "warm_start"):
        steps = [[m.exit_step(RNG.at(i), purpose) for i in range(50)] for m in (DMD(), DMD(student_exits=(1, 1, 1)))]
        assert steps[0] == steps[1]


def test_student_and_fake_score_roll_out_to_their_own_exits():
    method, seen = DMD(student_exits=(1, 0, 0), fake_score_exits=(0, 0, 1), teacher_guidance=1.0), []

    def student(x_t, sigma, cond):
        seen.append(1000 * sigma[0].item())
        return Gaussian(1.0)(x_t, sigma, cond)

    networks = {"student": student, "fake_score": Gaussian(0.0), "teacher": Gaussian(2.0)}
    method.student_loss(networks, batch(), RNG, {})
    assert seen == [1000]
    method.fake_score_loss(networks, batch(), RNG, {})
    assert seen[1:] == pytest.approx([1000, 757, 522])


def test_the_plan_counts_the_exits_that_come():
    """Forwards of the student in a cycle of 5 : 1, of the samples' own: exits 1, 2, 3 take as many."""
    for exits, expected in (((), 5 * 2), ((1, 1, 3), 5 * 2.4), ((0, 0, 1), 5 * 3)):
        found = cycle(DMD(fake_score_exits=exits), 5)
        assert float(found.expected("student", grad=False)) == pytest.approx(expected + 1)  # and the student's own


def test_a_causal_student_draws_by_the_same_weights():
    method = METHODS["self_forcing"](fake_score_exits=(0, 1, 0), same_step_across_blocks=False)
    assert {method.exit_step(RNG.at(i), "fake_score", chunk) for i in range(20) for chunk in range(3)} == {1}


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("dmd", {"student_exits": (1, 1)}, r"student_exits = \[1, 1\]: give one whole number .* each of the 3 steps"),
        ("dmd", {"fake_score_exits": (0, 0, 0)}, r"fake_score_exits = \[0, 0, 0\].*above 0"),
        ("dmd", {"fake_score_exits": (-1, 0, 1)}, r"fake_score_exits = \[-1, 0, 1\]"),
        ("dmd", {"student_exits": (1, 1, 101)}, "from 0 to 100"),
        ("dmd", {"exit_embedding": True, "ida_decay": 0.9}, "ida_decay = 0.9: .*exit_embedding"),
        (
            "self_forcing",
            {"last_step_only": True, "student_exits": (0, 0, 1)},
            "last_step_only = True: then student_exits",
        ),
        ("self_forcing", {"exit_embedding": True, "same_step_across_blocks": False}, "exit_embedding = True: .*chunk"),
        ("self_forcing", {"diversity_weight": 0.1}, "diversity_weight = 0.1: .*causal"),
    ],
)
def test_bad_fields_are_named(name, fields, message):
    with pytest.raises(ValueError, match=message):
        METHODS[name](**fields)


# A fake score that knows


def knowing(method):
    """Networks as a worker builds them, and a batch."""
    modules = {role: tiny_wan(seed) for seed, role in enumerate(("student", "fake_score", "teacher"))}
    for role, count in method.exits.items():
        add_exits(modules[role], count)
    text = RNG.noise("text", torch.arange(2), TEXT)
    data = batch(range(2), SHAPE, cond={"text": text}, uncond={"text": torch.zeros_like(text)})
    return modules, {role: WanDenoiser(module) for role, module in modules.items()}, data


@pytest.mark.parametrize("loss", ["student_loss", "fake_score_loss"])
def test_embeddings_of_zero_change_nothing_bit_for_bit(loss):
    """And guidance of the fake score takes them in both branches."""
    plain = DMD(fake_score_guidance=2.0)
    losses = [getattr(m, loss)(*knowing(m)[1:], RNG, {}).loss for m in (plain, replace(plain, exit_embedding=True))]
    assert torch.equal(*losses)


def test_the_fake_scores_own_exit_alone_learns():
    method = DMD(exit_embedding=True)
    modules, networks, data = knowing(method)
    for exit_step in range(3):
        method.fake_score_loss(networks, data, ExitAt(0, exit_step), {}).loss.backward()
        gradient = getattr(modules["fake_score"], NAME).weight.grad
        assert gradient.any(1).tolist() == [k == exit_step for k in range(3)]
        modules["fake_score"].zero_grad()
    assert all(p.grad is None for role in ("student", "teacher") for p in modules[role].parameters())
    method.student_loss(networks, data, RNG, {}).loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in modules["fake_score"].parameters())


def test_what_the_fake_score_says_follows_the_exit():
    method = DMD(exit_embedding=True)
    modules, networks, data = knowing(method)
    x, sigma = RNG.noise("x", data.sample_ids, SHAPE), torch.full((2,), 0.5)
    before = networks["fake_score"](x, sigma, data.cond).velocity
    getattr(modules["fake_score"], NAME).weight.data[2] = 1.0
    said = [networks["fake_score"](x, sigma, method.with_exit(data, k)[0]).velocity for k in range(3)]
    assert torch.equal(said[0], before) and torch.equal(said[1], before) and not torch.equal(said[2], before)
    assert torch.equal(networks["fake_score"](x, sigma, data.cond).velocity, before)  # none is remembered
    each = networks["fake_score"](x, sigma, {**data.cond, "exit": torch.tensor([0, 2])}).velocity
    torch.testing.assert_close(each, torch.stack([said[0][0], said[2][1]]))


def test_a_reused_rollout_brings_the_students_exit():
    method, seen = DMD(exit_embedding=True, reuse_rollout=True, student_interval=1, teacher_guidance=1.0), []

    def fake_score(x_t, sigma, cond):
        seen.append(cond["exit"].tolist())
        return Gaussian(0.0)(x_t, sigma, cond)

    networks = {"student": Gaussian(1.0), "fake_score": fake_score, "teacher": Gaussian(2.0)}
    for i in range(10):
        shared = {}
        for update in method.updates(i):
            update.loss(networks, batch(), RNG.at(i), shared)
    assert seen[::2] == seen[1::2] and len({tuple(e) for e in seen}) == 3


def test_a_shared_base_is_refused_by_name(tmp_path: Path):
    lora = {"lora": {"rank": 2}, "optimizer": {"learning_rate": 1e-3}}
    with pytest.raises(ValueError, match="method.exit_embedding = true: fake_score is an adapter"):
        run_config(
            tmp_path,
            method={"name": "dmd", "exit_embedding": True},
            model__shared_base=True,
            roles__student=lora,
            roles__fake_score=lora,
        )


# Why: what is matched is the mixture


def growth(std, exits, sigma, wanted=0.5):
    """E[g x] / E[x^2] of an exit N(0, std^2), g = mu_fake - mu_teacher raw: at what rate descent narrows its spread.

    The fake score is that of the ``exits`` in equal parts, the teacher that of N(0, wanted^2); by quadrature over x_s.
    """
    x_s = torch.linspace(-12, 12, 200_001, dtype=torch.float64)

    def level(s):
        return (1 - sigma) ** 2 * s**2 + sigma**2

    def density(s):
        return (-(x_s**2) / (2 * level(s))).exp() / level(s) ** 0.5

    def slope(s):
        return (1 - sigma) * s**2 / level(s)

    mu_fake = sum(density(s) * slope(s) * x_s for s in exits) / sum(density(s) for s in exits).clamp_min(1e-300)
    force = (mu_fake - slope(wanted) * x_s) * slope(std) * x_s  # E[x | x_s] of this exit
    return ((density(std) * force).sum() / density(std).sum() / std**2).item()


@pytest.mark.parametrize(("sigma", "share"), [(0.3, 0.0185), (0.6, 0.0006), (0.9, 0.0)])
def test_a_mixture_hardly_brings_exits_back(sigma, share):
    """Two exits of +-10 % spread around the teacher's: how much faster the wide one is narrowed than the narrow one,
    under the mixture's score, as a share of what each exit's own score would do."""
    narrow, wide = exits = (0.45, 0.55)
    mixture = growth(wide, exits, sigma) - growth(narrow, exits, sigma)
    own = growth(wide, (wide,), sigma) - growth(narrow, (narrow,), sigma)
    assert own > 0 and mixture / own == pytest.approx(share, abs=5e-5)
