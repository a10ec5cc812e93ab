from dataclasses import dataclass, field, replace

import pytest
import torch

from ray_distill.methods import METHODS
from ray_distill.methods.causal_warm_start import CausalWarmStart
from ray_distill.methods.warm_start import WarmStart
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.rng import StatelessRng
from ray_distill.types import Prediction
from tests.tiny_wan import SHAPE, TEXT, tiny_wan
from tests.unit.toys import Gaussian, batch, column

RNG = StatelessRng(0)
MEAN, STD = 2.0, 0.5


class ExitAt(StatelessRng):
    def control(self, purpose, high):
        return self.step


def end_of_the_flow(x_t, sigma, cond):
    """The student at the regression's optimum: N(m, s^2)'s exact flow map to 0 (oracle 9)."""
    s = column(sigma)
    x_0 = MEAN + STD / ((1 - s) ** 2 * STD**2 + s**2).sqrt() * (x_t - (1 - s) * MEAN)
    return Prediction((x_t - x_0) / s)


@dataclass
class Levels:
    denoiser: object
    seen: list = field(default_factory=list)
    grads: list = field(default_factory=list)

    def __call__(self, x_t, sigma, cond):
        self.seen.append(round(1000 * sigma[0].item(), 3))
        self.grads.append(torch.is_grad_enabled())
        return self.denoiser(x_t, sigma, cond)


@pytest.mark.parametrize("exit_step", [0, 1, 2])
def test_the_exact_flow_map_has_only_the_solvers_error(exit_step):
    """Halving Euler's step halves the error, so the loss falls to about a quarter: pairs and levels fit each other."""
    losses = []
    for steps in (50, 100):
        method = WarmStart(solver_steps=steps, solver_shift=1.0, solver_guidance=1.0)
        networks = {"student": end_of_the_flow, "teacher": Gaussian(MEAN, STD)}
        losses.append(method.warm_start_loss(networks, batch(), ExitAt(0, exit_step), {}).loss.item())
    assert 0 < losses[0] < 2e-3 and losses[0] / losses[1] == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("exit_step", [0, 1, 2])
def test_the_solver_halts_at_the_students_own_level(exit_step):
    method = WarmStart(solver_steps=4, solver_shift=8.0, solver_guidance=1.0)
    student, teacher = Levels(end_of_the_flow), Levels(Gaussian(MEAN, STD))
    method.warm_start_loss({"student": student, "teacher": teacher}, batch(), ExitAt(0, exit_step), {})
    assert student.seen == [method.timesteps[exit_step]] and student.grads == [True]
    assert teacher.seen == pytest.approx([1000, 960, 888.889, 757, 727.273, 522]) and not any(teacher.grads)


def test_it_comes_first_and_moves_the_student_alone():
    method = WarmStart(warm_start_steps=2, student_interval=2)
    roles = [[u.role for u in method.updates(step)] for step in range(5)]
    assert roles == [["student"], ["student"], ["fake_score"], ["student", "fake_score"], ["fake_score"]]
    assert METHODS["dmd_warm_start"] is WarmStart and not method.uses_latents

    networks = {"student": tiny_wan(1), "teacher": tiny_wan(3)}
    text = RNG.noise("text", torch.arange(2), TEXT)
    data = batch(range(2), SHAPE, cond={"text": text}, uncond={"text": torch.zeros_like(text)})
    (update,) = WarmStart(solver_steps=2).updates(0)
    update.loss({role: WanDenoiser(network) for role, network in networks.items()}, data, RNG, {}).loss.backward()
    without = [name for name, p in networks["student"].named_parameters() if p.grad is None or not p.grad.any()]
    assert all(name.endswith("to_k.bias") for name in without)  # softmax does not see them
    assert all(p.grad is None for p in networks["teacher"].parameters())


@pytest.mark.parametrize("fields", [{"warm_start_steps": 0}, {"solver_steps": 0}, {"solver_shift": 0.0}])
def test_bad_fields_are_named(fields):
    (key,) = fields
    with pytest.raises(ValueError, match=key):
        WarmStart(**fields)


@pytest.mark.parametrize("kind", [WarmStart, CausalWarmStart])
def test_prepared_pairs_are_learned_from_as_those_made_on_the_fly_and_ask_no_teacher(kind):
    more = {"num_frame_per_block": 1} if kind is CausalWarmStart else {}
    method = kind(solver_steps=4, solver_guidance=1.0, **more)
    networks = {
        "teacher": Gaussian(MEAN, STD),
        "student": lambda x_t, sigma, cond, chunks=None, window=None: Prediction(0 * x_t),
    }
    data = batch(shape=(1, 3, 2, 2))
    fly = method.warm_start_loss(networks, data, RNG, {}).loss
    *states, x_0 = method.trajectory(networks, data, RNG)
    assert not x_0.requires_grad and len(states) == len(method.timesteps)
    pairs = replace(method, pairs=True)
    prepared = batch(shape=(1, 3, 2, 2), x_0=x_0, states=torch.stack(states, dim=1))
    assert pairs.uses_latents and not method.uses_latents
    loss = pairs.warm_start_loss({"student": networks["student"]}, prepared, RNG, {}).loss
    assert loss == fly and loss > 0
    with pytest.raises(ValueError, match="pairs = True: the batch has no states"):
        pairs.warm_start_loss({"student": networks["student"]}, data, RNG, {})
