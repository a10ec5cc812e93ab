import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from ray_distill.diffusion.samplers import denoise
from ray_distill.methods.causal_warm_start import CausalWarmStart
from ray_distill.rng import StatelessRng
from ray_distill.types import Prediction
from tests.unit.methods.test_self_forcing import touched, wans
from tests.unit.toys import Gaussian, batch

RNG = StatelessRng(0)
STEPS = (1000.0, 757.0, 522.0)
TEACHER = Gaussian(2.0)


def method(**kwargs):
    return CausalWarmStart(timesteps=STEPS, solver_steps=6, solver_guidance=1.0, num_frame_per_block=1, **kwargs)


def shown(data, **kwargs):
    """What the student is shown, and the loss of one that always says 0."""
    calls = []

    def student(x_t, sigma, cond, *, chunks, window):
        assert window == method(**kwargs).chunks.window
        calls.append((x_t, sigma, chunks))
        return Prediction(x_t / sigma[:, None, :, None, None])

    terms = method(**kwargs).warm_start_loss({"student": student, "teacher": TEACHER}, data, RNG, {})
    return *calls[0], terms.loss


def test_each_chunk_enters_at_a_level_of_its_own_trajectory():
    data = batch(range(40), (1, 4, 2, 2))
    x_t, sigma, chunks, loss = shown(data)
    assert chunks == (1, 1, 1, 1)
    solver, x_T = method().solver(), RNG.noise("warm_start/noise", data.sample_ids, data.latent_shape)

    def state(stop):
        return denoise(TEACHER, solver, x_T, data.cond, None, lambda i: x_T, 0, stop)

    for level in STEPS:
        here = (sigma == level / 1000)[:, None, :, None, None].expand_as(x_t)
        assert here.any()
        torch.testing.assert_close(x_t[here], state(solver.timesteps.index(level))[here])
    levels = (sigma * 1000).round()
    assert any(len(row.unique()) > 1 for row in levels) and any(len(column.unique()) > 1 for column in levels.T)
    # The regression's target is the end of the teacher's trajectory.
    assert loss.item() == pytest.approx(state(len(solver.timesteps)).square().mean().item(), rel=1e-5)


def test_the_student_sees_its_window():
    assert method(window=2, sink=1).chunks.window is not None
    shown(batch(range(2), (1, 4, 2, 2)), window=2, sink=1)


def test_levels_are_uniform():
    sigma = shown(batch(range(1000), (1, 4, 1, 1)))[1]
    counts = np.unique((sigma * 1000).round().numpy(), return_counts=True)[1]
    assert len(counts) == 3 and chisquare(counts).pvalue > 1e-3


def test_chunks_and_bound_are_self_forcings():
    x_t, sigma, chunks, _ = shown(batch(range(2), (1, 5, 2, 2)), num_training_frames=3, independent_first_frame=True)
    assert chunks == (1, 1, 1) and x_t.shape[2] == sigma.shape[1] == 3


def test_the_regression_reaches_the_student_alone_and_ends():
    networks, held, data = wans(frames=3)
    recipe = method(warm_start_steps=2, student_interval=1)
    (update,) = recipe.updates(1)
    update.loss(held, data, RNG, {}).loss.backward()
    own = touched(networks.pop("student"))
    assert sum(own) > 0.9 * len(own) and all(p.grad is None for n in networks.values() for p in n.parameters())
    assert [update.role for update in recipe.updates(2)] == ["student", "fake_score"]
    x = recipe.roll_out(held, data, RNG, "student", False)
    assert x.shape == (2, *data.latent_shape) and recipe.sampler().chunks.frames == 1
