from dataclasses import replace

import pytest
import torch

from ray_distill.diffusion.losses import mse
from ray_distill.methods import DCM
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.rng import StatelessRng
from ray_distill.types import Average, Experts, Prediction
from tests.tiny_wan import SHAPE, TEXT, tiny_wan
from tests.unit.toys import ExactMap, Gaussian, batch, column

RNG = StatelessRng(0)
DATA = Gaussian(2.0, 0.5)
SMALL = (1, 1, 2, 2)
OFF = {"distill_cfg": 0.0}  # c + 0 (c - u): the teacher unguided


def data_batch(n, shape=SMALL):
    return batch(range(n), shape, x_0=2 + 0.5 * RNG.noise("data", torch.arange(n), shape).double())


def wans():
    networks = {role: tiny_wan(seed) for seed, role in enumerate(("student", "student_ema", "teacher"))}
    ids = torch.arange(2)
    text = RNG.noise("text", ids, TEXT)
    data = batch(
        ids, SHAPE, x_0=RNG.noise("x_0", ids, SHAPE), cond={"text": text}, uncond={"text": torch.zeros_like(text)}
    )
    return networks, {role: WanDenoiser(network) for role, network in networks.items()}, data


# The grid


def test_the_semantic_experts_grid():
    """Oracle 14: steps 35 to 49 of 50 at shift 17 end where the boundary stands."""
    phases = DCM().phases
    timesteps = [1000 * sigma for sigma in phases.levels]
    assert timesteps[:4] == pytest.approx([975.410, 977.636, 979.751, 981.763], abs=5e-4)
    assert len(timesteps) == 16 and timesteps[-1] == 1000 and phases.edges == (0,)


def test_the_whole_grid():
    """Oracle 14; the last step ends at raw index 1 of 1000, not at 0."""
    timesteps = [1000 * sigma for sigma in DCM(boundary=0.0).phases.levels]
    assert [timesteps[k + 1] for k in (0, 1, 34, 35, 49)] == pytest.approx(
        [257.576, 414.634, 975.410, 977.636, 1000], abs=5e-4
    )
    assert timesteps[0] == pytest.approx(16.732, abs=5e-4) and len(timesteps) == 51


@pytest.mark.parametrize("steps", [8, 25, 50, 100, 1000])
def test_the_boundary_does_not_depend_on_the_number_of_steps(steps):
    assert 1000 * DCM(steps).phases.levels[0] == pytest.approx(975.410, abs=5e-4)
    assert len(DCM(100).phases.levels) == 31  # at index 35 of 100 it would be timestep 901
    assert 1000 * DCM(boundary="hunyuan").phases.levels[0] == pytest.approx(981.763, abs=5e-4)
    assert DCM(boundary=0.5).phases.levels[0] == pytest.approx(17 * 0.5 / 9)


def test_phases_are_cut_by_number_or_by_level():
    assert DCM(multiphase=3).phases.edges == (0, 5, 10)
    assert DCM(multiphase=(0.8, 0.9)).phases.edges == (0, 5, 10)
    by_level = DCM(25, multiphase=(0.85,)).phases  # between two steps of the grid: it halts there
    assert by_level.levels[by_level.edges[1]] == pytest.approx(17 * 0.85 / (1 + 16 * 0.85))


# The closed forms


def test_the_exact_map_is_left_with_eulers_error():
    """Halving the step divides the difference, and with it Huber's far branch, by 4: in each of two phases."""
    losses = []
    for steps in (50, 100, 200):
        method = DCM(steps, 1.0, (0.85,), huber_c=1e-9, temporal_lag=0, **OFF)
        lower, upper = (method.phases.levels[e] for e in method.phases.edges)

        def exact(x_t, sigma, cond, lower=lower, upper=upper):
            low, high = ExactMap(DATA, lower), ExactMap(DATA, upper)
            above = column(sigma > upper + 1e-6)
            return Prediction(torch.where(above, high(x_t, sigma, {}).velocity, low(x_t, sigma, {}).velocity))

        networks = {"student": exact, "teacher": DATA}
        losses.append(method.student_loss(networks, data_batch(256), RNG, {}).loss.item())
    assert [a / b for a, b in zip(losses, losses[1:], strict=False)] == pytest.approx([4, 4], rel=0.15)
    assert losses[0] < 1e-3


def straight(point):
    def denoise(x_t, sigma, cond):
        return Prediction((x_t - point) / column(sigma).to(x_t.dtype))

    return denoise


@pytest.mark.parametrize("multiphase", [1, 3])
def test_one_data_point_leaves_nothing(multiphase):
    """Straight paths: it scores 1.18 where the velocity is compared with the latent."""
    shape = (1, 5, 2, 2)
    data = batch(range(64), shape, x_0=torch.full((64, *shape), 0.7))
    exact = dict.fromkeys(("student", "teacher"), straight(0.7))
    method = DCM(shift=3.0, multiphase=multiphase, **OFF)
    assert method.student_loss(exact, data, RNG, {}).loss < 1e-6
    assert method.student_loss(exact | {"student": straight(0.2)}, data, RNG, {}).loss > 1e-3


def test_at_the_boundary_the_teachers_step_is_the_target():
    """Oracle 11: at k = 35 pred - aim = (sigma_prev - sigma)(v_student - v_teacher)."""
    method = DCM(10, multiphase=(0.8, 0.9), huber_c=1e-9, temporal_lag=0, **OFF)  # three steps, each a phase

    def student(x_t, sigma, cond):
        return Prediction(DATA(x_t, sigma, cond).velocity + 0.3)

    terms = method.student_loss({"student": student, "teacher": DATA}, data_batch(64), RNG, {})
    levels = torch.tensor(method.phases.levels)
    k = method.phases.index(RNG.uniform("step", torch.arange(64)))
    assert terms.loss.item() == pytest.approx(0.3 * (levels[k + 1] - levels[k]).mean().item(), rel=1e-4)


def test_the_temporal_term_compares_frames_that_are_lag_apart():
    networks = {"student": Gaussian(2.0, 1.0), "teacher": DATA}
    for lag, frames in ((3, 5), (1, 5)):
        method, data = DCM(10, 1.0, boundary=0.0, temporal_lag=lag, **OFF), data_batch(16, (1, frames, 2, 2))
        pred, aim, terms = method.consistency(networks, data, RNG)
        bare = replace(method, temporal_lag=0).student_loss(networks, data, RNG, {})
        wanted = mse(pred[:, :, lag:] - pred[:, :, :-lag], aim[:, :, lag:] - aim[:, :, :-lag])
        assert wanted > 1e-6 and terms.loss - bare.loss == pytest.approx(wanted.item(), rel=1e-4)
        assert terms.logs["temporal_loss"] == pytest.approx(wanted.item())
    for lag, frames in ((0, 5), (3, 3)):
        terms = DCM(temporal_lag=lag, **OFF).student_loss(networks, data_batch(4, (1, frames, 2, 2)), RNG, {})
        assert "temporal_loss" not in terms.logs


def test_the_teacher_is_guided_in_its_own_form():
    """c + 5 (c - u), DCM's shipped form, is 6 standard; the student sees the prompt alone."""
    assert DCM().scale == 6.0 and DCM(distill_cfg=5.0, distill_cfg_form="std").scale == 5.0
    assert "s = 6 (from 5 extra)" in DCM().describe()
    aims = []
    for keys in ({"distill_cfg": 2.0}, {"distill_cfg": 3.0, "distill_cfg_form": "std"}):
        method = DCM(10, multiphase=(0.8, 0.9), temporal_lag=0, **keys)
        networks = {"student": Gaussian(), "teacher": Gaussian()}
        aims.append(method.consistency(networks, data_batch(4), RNG)[1])
    assert torch.equal(*aims)


# Who is moved, randomness


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_an_update_reaches_the_student_alone(decay):
    networks, held, data = wans()
    (update,) = DCM(target_decay=decay, temporal_lag=1).updates(0)
    assert update.role == "student"
    update.loss(held, data, RNG, {}).loss.backward()
    without = [name for name, p in networks["student"].named_parameters() if p.grad is None or not p.grad.any()]
    assert all(name.endswith("to_k.bias") for name in without)  # softmax does not see them
    assert all(p.grad is None for role in ("student_ema", "teacher") for p in networks[role].parameters())


def test_the_target_is_the_student_or_its_average():
    assert DCM().roles == {"student": "trained", "teacher": "frozen"}
    assert DCM(target_decay=0.95).roles["student_ema"] == Average("student", 0.95)
    _, held, data = wans()
    averaged, alone = (DCM(target_decay=d, shift=1.0).student_loss(held, data, RNG, {}).loss for d in (0.95, 0.0))
    same = DCM(target_decay=0.95, shift=1.0).student_loss(held | {"student_ema": held["student"]}, data, RNG, {}).loss
    assert torch.equal(alone, same) and not torch.equal(alone, averaged)


def test_a_loss_is_a_function_of_the_seed():
    _, held, data = wans()
    one, again, other = (DCM().student_loss(held, data, StatelessRng(seed, 3), {}).loss for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


# The recipe, and what is refused


def test_the_experts_share_the_steps():
    """Half each, even on their own grids, and the boundary between the last detail and the first semantic level."""
    recipe = DCM().sampler()
    assert recipe.kind == "ode" and recipe.nfe == 6
    raw = (1, 0.9, 0.8, 0.7, 0.46, 0.22)
    assert recipe.timesteps == pytest.approx([1000 * 17 * r / (1 + 16 * r) for r in raw])
    assert recipe.experts == Experts("student", "teacher", pytest.approx((975.410 + 977.636) / 2, abs=5e-4))
    assert [t >= recipe.experts.boundary for t in recipe.timesteps] == [True] * 3 + [False] * 3
    alone = DCM(boundary=0.0, sampling_steps=4).sampler()
    assert alone.experts is None and len(alone.timesteps) == 4
    assert len(DCM(sampling_steps=5).sampler().timesteps) == 5


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"euler_steps": 30}, "euler_steps = 30: use a divisor of 1000"),
        ({"euler_steps": 0}, "euler_steps = 0"),
        ({"shift": 0.0}, "shift, huber_c, temporal_lag = 0.0"),
        ({"temporal_lag": -1}, "shift, huber_c, temporal_lag = 17.0, 0.001, -1"),
        ({"boundary": 1.0}, "boundary = 1.0: give 'wan', 'hunyuan', a raw level"),
        ({"boundary": -0.1}, "boundary = -0.1"),
        ({"target_decay": 1.0}, "target_decay = 1.0"),
        ({"sampling_steps": 1}, "sampling_steps = 1: give each expert at least one"),
        ({"sampling_steps": 40}, "sampling_steps: 20 steps do not fit on a grid of 15 levels"),
        ({"multiphase": 16}, "multiphase = 16: a phase has at least one of the 15 solver steps; use 1 to 15"),
        ({"multiphase": (0.5,)}, "multiphase = .0.5.: give raw levels between 0.7 and 1"),
    ],
)
def test_what_makes_no_sense_is_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        DCM(**keys)
