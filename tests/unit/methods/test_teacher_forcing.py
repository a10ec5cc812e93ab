"""Teacher forcing, causal consistency and causal regression: losses in closed form, what networks are shown, and who
gets a gradient."""

from dataclasses import dataclass, field

import pytest
import torch

from ray_distill.diffusion.causal import chunk_lengths
from ray_distill.diffusion.flow import add_noise, velocity
from ray_distill.methods import LCM
from ray_distill.methods.causal_consistency import CausalConsistency
from ray_distill.methods.causal_regression import CausalRegression
from ray_distill.methods.teacher_forcing import TeacherForcing
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.rng import StatelessRng
from ray_distill.types import Chunks, Prediction, Window
from tests.tiny_wan import TEXT, tiny_wan
from tests.unit.toys import ExactMap, Gaussian, batch

RNG = StatelessRng(0)
DATA = Gaussian(2.0, 0.5)
SHAPE = (1, 7, 2, 2)


def clips(n=4, shape=SHAPE, **kwargs):
    return batch(range(n), shape, x_0=2 + 0.5 * RNG.noise("data", torch.arange(n), shape), **kwargs)


def wans(roles, frames=7):
    networks = {role: tiny_wan(seed) for seed, role in enumerate(roles)}
    text = RNG.noise("text", torch.arange(2), TEXT)
    data = clips(2, (4, frames, 4, 4), cond={"text": text}, uncond={"text": torch.zeros_like(text)})
    return networks, {role: WanDenoiser(network) for role, network in networks.items()}, data


@dataclass
class Noted:
    """A network that is exact for elementwise ``DATA`` and notes its calls."""

    calls: list = field(default_factory=list)
    velocity: object = DATA

    def __call__(self, x_t, sigma, cond, **causal):
        self.calls.append({"x_t": x_t, "sigma": sigma, "cond": cond["text"], **causal})
        levels = sigma[:, None, :, None, None] if sigma.ndim == 2 else sigma
        if sigma.ndim == 2:  # the toy takes one level a sample: frames as samples
            frames = [self.velocity(x_t[:, :, [t]], sigma[:, t], cond).velocity for t in range(x_t.shape[2])]
            return Prediction(torch.cat(frames, dim=2))
        return self.velocity(x_t, levels, cond)


def reaches(networks, held, data, method, role):
    (update,) = method.updates(0)
    assert update.role == role
    update.loss(held, data, RNG, {}).loss.backward()
    own = [p.grad is not None and bool(p.grad.any()) for p in networks.pop(role).parameters()]
    assert sum(own) > 0.9 * len(own)
    assert all(p.grad is None for network in networks.values() for p in network.parameters())


# Teacher forcing


def test_each_chunk_draws_a_level_and_sees_the_clean_clip():
    student, data = Noted(), clips(64)
    terms = TeacherForcing(independent_first_frame=True, window=4, sink=1, prompt_dropout=0.0).loss(
        {"student": student}, data, RNG, {}
    )
    (call,) = student.calls
    assert call["chunks"] == (1, 3, 3) and call["window"] == Window(4, 1)
    assert torch.equal(call["history"].x, data.x_0) and not call["history"].sigma.any()
    sigma = call["sigma"]
    assert sigma.shape == (64, 7)
    for start, end in ((0, 1), (1, 4), (4, 7)):
        assert (sigma[:, start:end] == sigma[:, start : start + 1]).all()
    assert len(sigma.unique()) == 3 * 64
    eps = RNG.noise("eps", data.sample_ids, SHAPE)
    torch.testing.assert_close(call["x_t"], add_noise(data.x_0, eps, sigma))
    # The exact denoiser is left with the floor s^2 / D of each level (oracle 7).
    floor = 0.25 / ((1 - sigma) ** 2 * 0.25 + sigma**2)
    assert terms.loss.item() == pytest.approx(floor.mean().item(), rel=0.1)


def test_levels_are_uniform_before_the_shift():
    student = Noted()
    TeacherForcing(num_frame_per_block=1, shift=5.0).loss({"student": student}, clips(300), RNG, {})
    sigma = student.calls[0]["sigma"]
    raw = sigma / (5 - 4 * sigma)
    assert abs(raw.mean() - 0.5) < 4 * (1 / 12 / raw.numel()) ** 0.5
    assert sigma.mean() == pytest.approx(0.747051, abs=0.02)  # oracle 13


def test_the_bell_has_mean_one_and_leaves_pure_noise_out():
    method = TeacherForcing(loss_weight="bell")
    at = method.weight(torch.tensor([0.5, 0.9, 1.0, 0.0]))
    assert at.tolist() == pytest.approx([2.08, 0.63, 0.0, 0.0], abs=5e-3)
    grid = torch.arange(1, 1001) / 1000
    assert method.weight(5 * grid / (1 + 4 * grid)).mean().item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(TeacherForcing().weight(at), torch.ones(4))


def test_the_weight_is_that_of_each_frame():
    class Zero(Noted):
        def __call__(self, x_t, sigma, cond, **causal):
            super().__call__(x_t, sigma, cond, **causal)
            return Prediction(0 * x_t)

    student, data, method = Zero(), clips(), TeacherForcing(num_frame_per_block=7, loss_weight="bell")
    found = method.loss({"student": student}, data, RNG, {}).loss
    target = velocity(data.x_0, RNG.noise("eps", data.sample_ids, SHAPE)).square().mean((1, 3, 4))
    assert found.item() == pytest.approx((method.weight(student.calls[0]["sigma"]) * target).mean().item(), rel=1e-5)


def test_a_noised_history_is_told_its_level():
    student, data = Noted(), clips(200)
    TeacherForcing(history_noise=0.2, num_frame_per_block=7).loss({"student": student}, data, RNG, {})
    history = student.calls[0]["history"]
    assert history.sigma.min() > 0 and 0.19 < history.sigma.max() < 0.2
    eps = RNG.noise("history_eps", data.sample_ids, SHAPE)
    torch.testing.assert_close(history.x, add_noise(data.x_0, eps, history.sigma))


def test_its_student_is_sampled_by_chunks_with_guidance():
    recipe = TeacherForcing(window=6, sink=3).sampler()
    assert recipe.chunks == Chunks(3, window=Window(6, 3)) and recipe.guidance_scale == 3.0 and recipe.nfe == 98


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"history_noise": 100.0}, "history_noise = 100.0: .* a sigma"),
        ({"shift": 0.0}, "shift"),
        ({"num_frame_per_block": 0}, "num_frame_per_block = 0"),
    ],
)
def test_bad_keys_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        TeacherForcing(**bad)


def test_a_clip_of_no_whole_chunks_is_refused():
    with pytest.raises(ValueError, match="7 latent frames, which are not k x 3"):
        TeacherForcing().loss({"student": Noted()}, clips(), RNG, {})


# Causal consistency


def test_every_network_sees_the_clean_clip():
    networks = {role: Noted() for role in ("student", "student_ema", "teacher")}
    data = clips(3)
    method = CausalConsistency(num_frame_per_block=1, window=3, guidance=2.0)
    found = method.student_loss(networks, data, RNG, {}).loss
    for role, network in networks.items():
        (call,) = network.calls
        times = 2 if role == "teacher" else 1
        assert call["chunks"] == (1,) * 7 and call["window"] == Window(3)
        assert torch.equal(call["history"].x, data.x_0.repeat(times, 1, 1, 1, 1))
        assert call["sigma"].shape == (3 * times,) and not call["history"].sigma.any()
    plain = LCM(48, 5.0, 2.0, loss="l2", target_decay=0.99)
    exact = dict.fromkeys(networks, DATA)
    assert found.item() == plain.student_loss(exact, data, RNG, {}).loss.item()  # the pair is LCM's


def test_the_last_pair_anchors_the_map():
    """A constant map has loss 0 between all levels above 0; the pair that ends at 0 gives it the data's distance."""
    method = CausalConsistency(euler_steps=4, guidance=1.0, num_frame_per_block=7, target_decay=0)
    constant = ExactMap(Gaussian(5.0, 1e-6))
    data, sigma = clips(64), []

    def student(x_t, level, cond, **causal):
        sigma.append(level)
        return constant(x_t, level, cond)

    def teacher(x_t, level, cond, **causal):
        return Gaussian(2.0, 0.5)(x_t, level, cond)

    terms = method.student_loss({"student": student, "teacher": teacher}, data, RNG, {})
    lowest = sigma[0] == min(method.phases.levels[1:])
    assert 0.1 < lowest.float().mean() < 0.4
    assert terms.loss.item() == pytest.approx(9.0 * lowest.float().mean().item(), rel=0.3)


def test_its_student_is_sampled_by_chunks():
    recipe = CausalConsistency(sampling_steps=4, independent_first_frame=True).sampler()
    assert recipe.chunks == Chunks(3, True) and recipe.nfe == 5
    assert recipe.timesteps == pytest.approx((1000.0, 937.5, 833.3333, 625.0), abs=1e-3)


# Causal regression


@torch.no_grad()
def test_the_end_of_the_teachers_trajectory_is_the_target():
    """A student that is the exact map of the teacher's ODE is left with Euler's error; the level is one a sample."""
    student, teacher = Noted(velocity=ExactMap(DATA)), Noted()
    data = clips(40)
    method = CausalRegression(solver_guidance=1.0, solver_steps=200, num_frame_per_block=7)
    loss = method.student_loss({"student": student, "teacher": teacher}, data, RNG, {}).loss
    (call,) = student.calls
    assert call["sigma"].shape == (40,) and set((1000 * call["sigma"]).round().tolist()) == {1000, 938, 833, 625}
    assert torch.equal(call["history"].x, data.x_0) and teacher.calls[0]["chunks"] == (7,)
    assert 0 < loss.item() < 1e-3
    wrong = Noted(velocity=ExactMap(Gaussian(2.0, 0.4)))
    assert method.student_loss({"student": wrong, "teacher": teacher}, data, RNG, {}).loss.item() > 5e-3


# What they share


@pytest.mark.parametrize("method", [TeacherForcing(), CausalConsistency(), CausalRegression(solver_steps=2)])
def test_an_update_reaches_the_student_alone_and_is_a_function_of_the_seed(method):
    networks, held, data = wans(method.roles, frames=6)
    loss = method.updates(0)[0].loss
    one, again, other = (loss(held, data, StatelessRng(seed, 3), {}).loss for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    reaches(networks, held, data, method, "student")


# Why a bidirectional teacher is the weaker start


@pytest.mark.parametrize(
    ("rho", "kept", "floor"), [(0.5, 0.9330, 0.0670), (0.9, 0.7179, 0.2821), (0.99, 0.5705, 0.4295)]
)
def test_a_bidirectional_map_is_no_function_of_the_first_noise(rho, kept, floor):
    """Oracle 34: two frames of unit variance and correlation rho, whose ODE maps x_0 = Sigma^(1/2) eps. Of frame 1 a
    causal student that sees eps_1 alone keeps one share of the variance, and misses the other whatever it learns."""
    covariance = torch.tensor([[1, rho], [rho, 1]], dtype=torch.float64)
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors @ values.sqrt().diag() @ vectors.T
    assert root[0, 0].item() ** 2 == pytest.approx(kept, abs=5e-5)
    assert root[0, 1].item() ** 2 == pytest.approx(floor, abs=5e-5)
    eps = torch.randn(2, 200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first = (root @ eps)[0]
    slope = (first * eps[0]).mean() / eps[0].square().mean()  # the best causal student of Gaussian noise is linear
    assert (first - slope * eps[0]).square().mean().item() == pytest.approx(floor, rel=0.02)
    # An autoregressive teacher maps frame 1 by eps_1 and frame 2, after frame 1, by eps_2: nothing is left.
    lower = torch.linalg.cholesky(covariance)
    assert lower[0, 1] == 0 and torch.allclose(lower @ lower.T, covariance)


@pytest.mark.parametrize(("sigma", "floor"), [(0.9375, 0.2803), (2.5 / 3, 0.2666), (0.625, 0.1811)])
def test_entering_later_leaves_most_of_the_floor(sigma, floor):
    """Oracle 34 at rho = .9: frame 1 of x_sigma = (1 - sigma) x_0 + sigma eps on the ODE's own path says no more of its
    end than this. Along an eigenvector of value l the path is sqrt(D(sigma)) z and its end sqrt(l) z."""
    rho = 0.9
    values, vectors = torch.linalg.eigh(torch.tensor([[1, rho], [rho, 1]], dtype=torch.float64))
    path = ((1 - sigma) ** 2 * values + sigma**2).sqrt()
    state, end = (vectors @ scale.diag() @ vectors.T for scale in (path, values.sqrt()))
    seen, target = state[0], end[0]
    left = target @ target - (seen @ target) ** 2 / (seen @ seen)
    assert left.item() == pytest.approx(floor, abs=5e-5)


def test_lengths_are_those_of_the_chunks():
    method = TeacherForcing(num_frame_per_block=2, independent_first_frame=True)
    assert method.lengths(7) == chunk_lengths(7, method.chunks) == (1, 2, 2, 2)
