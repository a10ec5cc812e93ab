"""The consistency of a rollout's predictions: closed form, who is moved, what it costs."""

from dataclasses import replace

import pytest
import torch

from ray_distill.diffusion.samplers import predictions, simulate
from ray_distill.methods import DMD, GAN, METHODS
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.plan.forwards import cycle
from ray_distill.rng import StatelessRng
from ray_distill.types import Prediction, Sampler
from tests.tiny_wan import SHAPE, TEXT, tiny_wan
from tests.unit.methods.test_exits import ExitAt
from tests.unit.toys import Gaussian, batch

RNG = StatelessRng(0)
LEVELS = (1000.0, 750.0, 400.0)


class Line:
    """A student whose x_0-prediction at the level of step j is ``a[j]`` x_t."""

    def __init__(self, a, levels=LEVELS):
        self.a, self.levels = a, [level / 1000 for level in levels]

    def __call__(self, x_t, sigma, cond):
        s = sigma[0].item()
        j = min(range(len(self.levels)), key=lambda i: abs(self.levels[i] - s))
        return Prediction((1 - self.a[j]) * x_t / s)  # x_t - s v = a x_t


def test_the_last_prediction_is_that_of_the_simulation_bit_for_bit():
    """And so is each before it, at its own exit."""
    student, recipe = WanDenoiser(tiny_wan(0)), Sampler(LEVELS, "ode")
    cond, x_T = {"text": RNG.noise("text", torch.arange(2), TEXT)}, RNG.noise("x", torch.arange(2), SHAPE)
    for k in range(3):
        found = predictions(student, recipe, x_T, cond, k)
        alone = [simulate(student, recipe, x_T, cond, lambda _: x_T, j, True) for j in range(k + 1)]
        assert [torch.equal(x, y) for x, y in zip(found, alone, strict=True)] == [True] * (k + 1)


def test_the_term_in_closed_form():
    """x_j = c_j x_T with c_j = a_j p_j, p_0 = 1 and p_j = (c_(j-1) (s_(j-1) - s_j) + p_(j-1) s_j) / s_(j-1). With
    a = .2, .6, .9 at 1, .75, .4: p = 1, .8, .650667; c = .2, .48, .5856; (.2 - .5856)^2 + (.48 - .5856)^2 = .159839."""
    a = torch.tensor([0.2, 0.6, 0.9], requires_grad=True)
    x_T = torch.ones(4, 1, 1, 1, 1)
    found = predictions(Line(a), Sampler(LEVELS, "ode"), x_T, {}, 2)
    assert [x.mean().item() for x in found] == pytest.approx([0.2, 0.48, 0.5856], abs=1e-6)
    loss = DMD(LEVELS, rollout="ode", consistency_weight=1.0).consistency_loss(batch(), found)
    assert loss.item() == pytest.approx(0.159839, abs=1e-6)
    loss.backward()
    # 2 (c_j - c_2) p_j to each earlier step, as if p_j were given, and the sum of what is against them to the last.
    last = 2 * (0.3856 + 0.1056) * 0.650667
    assert a.grad.tolist() == pytest.approx([2 * -0.3856, 2 * -0.1056 * 0.8, last], abs=1e-6)


def test_a_rollout_of_one_step_has_no_term():
    method = DMD(LEVELS, rollout="ode", teacher_guidance=1.0, consistency_weight=5.0)
    networks = {"student": Gaussian(1.0), "fake_score": Gaussian(0.0), "teacher": Gaussian(2.0)}
    plain = replace(method, consistency_weight=0.0)
    first, other = (m.student_loss(networks, batch(), ExitAt(0, 0), {}) for m in (method, plain))
    assert torch.equal(first.loss, other.loss) and first.logs["consistency_loss"] == 0


@pytest.mark.parametrize("cls", [DMD, GAN])
def test_it_adds_its_weight_to_the_methods_own_loss(cls):
    """The rest is the same bit for bit, and without the key there is nothing of it."""
    modules = {role: tiny_wan(seed) for seed, role in enumerate(("student", "fake_score", "teacher"))}
    text = RNG.noise("text", torch.arange(2), TEXT)
    x_0 = RNG.noise("clip", torch.arange(2), SHAPE)
    data = batch(range(2), SHAPE, cond={"text": text}, uncond={"text": torch.zeros_like(text)}, x_0=x_0)
    networks = {role: WanDenoiser(module) for role, module in modules.items()}
    plain = cls(LEVELS, rollout="ode", **({"gan_weight": 0.0} if cls is GAN else {}))
    before = plain.student_loss(networks, data, ExitAt(0, 2), {})
    terms = replace(plain, consistency_weight=0.5).student_loss(networks, data, ExitAt(0, 2), {})
    apart = terms.logs.pop("consistency_loss")
    assert apart > 0 and torch.equal(terms.loss, before.loss + 0.5 * apart)
    assert terms.logs.keys() == before.logs.keys()
    assert all(torch.equal(torch.as_tensor(terms.logs[k]), torch.as_tensor(before.logs[k])) for k in before.logs)
    terms.loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in modules["student"].parameters())
    assert all(p.grad is None for role in ("fake_score", "teacher") for p in modules[role].parameters())


def test_the_picture_that_a_clip_begins_with_is_left_out():
    """Its frame is given: the networks' prediction there is no part of a video."""
    given = replace(batch(shape=(1, 3, 2, 2)), prefix=1)
    x, y = torch.zeros(4, 1, 3, 2, 2), torch.ones(4, 1, 3, 2, 2)
    y[:, :, 0] = 100.0
    assert DMD(rollout="ode", consistency_weight=1.0).consistency_loss(given, [x, y]).item() == 1.0


def test_picture_and_sound_have_their_own_means():
    """A clip of a picture's four tokens and two of sound, apart by 2 and by 3: 4 + 9, whatever the counts."""
    x, y = torch.zeros(4, 1, 6, 1, 1), torch.full((4, 1, 6, 1, 1), 2.0)
    y[:, :, 4:] = 3.0
    both = replace(batch(shape=(1, 6, 1, 1)), modalities={"video": slice(0, 4), "audio": slice(4, 6)})
    method = DMD(rollout="ode", consistency_weight=1.0)
    assert method.consistency_loss(both, [x, y]).item() == 13.0
    assert replace(method, audio_weight=0.0).consistency_loss(both, [x, y]).item() == 4.0


def test_a_reused_rollout_is_its_last_prediction():
    method = DMD(LEVELS, rollout="ode", teacher_guidance=1.0, consistency_weight=1.0, reuse_rollout=True)
    networks = {"student": Gaussian(1.0), "fake_score": Gaussian(0.0), "teacher": Gaussian(2.0)}
    shared, rng = {}, ExitAt(0, 2)
    method.student_loss(networks, batch(), rng, shared)
    assert torch.equal(shared["x"], method.roll_out(networks, batch(), rng, "student", grad=False))


def test_no_forward_is_added_but_earlier_ones_keep_their_graphs():
    plain, drawn = (cycle(DMD(rollout="ode", consistency_weight=w), 5) for w in (0.0, 0.25))
    both = [sum(c.expected("student", grad) for grad in (True, False)) for c in (plain, drawn)]
    assert both[0] == both[1]
    assert (plain.expected("student", True), drawn.expected("student", True)) == (1, 2)  # of exits 1, 2, 3


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("dmd", {"consistency_weight": -1.0}, "consistency_weight = -1.0: use 0 .off. or more"),
        ("dmd", {"timesteps": (1000.0,)}, "consistency_weight = 0.25: .*has one;"),
        ("dmd", {"rollout": "sde"}, "consistency_weight = 0.25: with rollout = sde .*set method.rollout=ode"),
        ("dmd", {"backward_simulation": False}, "consistency_weight = 0.25: with backward_simulation = False"),
        ("self_forcing", {"rollout": "sde"}, "consistency_weight = 0.25: .*causal student"),
    ],
)
def test_what_it_cannot_serve_is_refused(name, fields, message):
    with pytest.raises(ValueError, match=message):
        METHODS[name](**{"rollout": "ode", "consistency_weight": 0.25, **fields})
