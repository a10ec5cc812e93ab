import pytest
import torch

from ray_distill.methods import LCM
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.rng import StatelessRng
from ray_distill.types import Average, Prediction, Sampler
from tests.tiny_wan import SHAPE, TEXT, tiny_wan
from tests.unit.toys import ExactMap, Gaussian, batch, column

RNG = StatelessRng(0)
DATA = Gaussian(2.0, 0.5)
SMALL = (1, 1, 2, 2)


def gaussian_batch(n):
    x_0 = 2 + 0.5 * RNG.noise("data", torch.arange(n), SMALL).double()
    return batch(range(n), SMALL, x_0=x_0)


def wans():
    networks = {role: tiny_wan(seed) for seed, role in enumerate(("student", "student_ema", "teacher"))}
    ids = torch.arange(2)
    text = RNG.noise("text", ids, TEXT)
    data = batch(
        ids, SHAPE, x_0=RNG.noise("x_0", ids, SHAPE), cond={"text": text}, uncond={"text": torch.zeros_like(text)}
    )
    return networks, {role: WanDenoiser(network) for role, network in networks.items()}, data


# The closed forms


def test_the_exact_map_of_gaussian_data_is_left_with_eulers_error():
    """The difference falls with the square of the step: Huber's far branch by 4, l2 by 16."""
    exact = {"student": ExactMap(DATA), "teacher": DATA}
    for kind, factor in (("huber", 4), ("l2", 16)):
        losses = []
        for steps in (50, 100, 200):
            method = LCM(steps, 1.0, 1.0, target_decay=0, loss=kind, huber_c=1e-9)
            losses.append(method.student_loss(exact, gaussian_batch(256), RNG, {}).loss.item())
        assert [a / b for a, b in zip(losses, losses[1:], strict=False)] == pytest.approx([factor] * 2, rel=0.15)
        assert losses[0] < 1e-2


def straight(point):
    """The exact velocity where all data is one point: (x_t - x_0) / sigma, on straight paths."""

    def denoise(x_t, sigma, cond):
        s = column(sigma)
        return Prediction(torch.where(s > 0, (x_t - point) / torch.where(s > 0, s, 1), 0))

    return denoise


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_one_data_point_leaves_nothing(decay):
    """It scores 1.18 where a velocity is regressed on a latent."""
    data = batch(range(64), SMALL, x_0=torch.full((64, *SMALL), 0.7))
    exact = dict.fromkeys(("student", "student_ema", "teacher"), straight(0.7))
    assert LCM(guidance=1.0, target_decay=decay).student_loss(exact, data, RNG, {}).loss < 1e-6
    wrong = exact | {"student": straight(0.2)}
    assert LCM(guidance=1.0, target_decay=decay).student_loss(wrong, data, RNG, {}).loss > 1e-3


def test_losses_of_the_same_pair():
    """Of a student who is off by d everywhere but at the target: sqrt(d^2 + c^2) - c, or d^2."""
    data = batch(range(8), SMALL, x_0=torch.full((8, *SMALL), 0.7))
    networks = {"student": straight(0.703), "student_ema": straight(0.7), "teacher": straight(0.7)}
    huber, l2 = (LCM(guidance=1.0, loss=kind).student_loss(networks, data, RNG, {}).loss for kind in ("huber", "l2"))
    assert huber.item() == pytest.approx(0.00216227766, rel=1e-3) and l2.item() == pytest.approx(9e-6, rel=1e-3)


# What the networks are shown


def seen_by(method, role, n=64):
    calls = []

    def note(x_t, sigma, cond):
        calls.append((x_t, sigma, cond["text"]))
        return DATA(x_t, sigma, cond)

    networks = dict.fromkeys(("student", "student_ema", "teacher"), DATA) | {role: note}
    method.student_loss(networks, gaussian_batch(n), RNG, {})
    return calls


def test_student_and_target_stand_one_step_apart_on_the_grid():
    method = LCM(euler_steps=8, shift=3.0)
    grid = torch.tensor([3 * n / 8 / (1 + 2 * n / 8) for n in range(9)])
    ((x_n, sigma, _),) = seen_by(method, "student")
    ((x_prev, sigma_prev, _),) = seen_by(method, "student_ema")
    n = (sigma[:, None] - grid).abs().argmin(1)
    assert set(n.tolist()) == set(range(1, 9))
    torch.testing.assert_close(sigma, grid[n])
    torch.testing.assert_close(sigma_prev, grid[n - 1])
    v = DATA(x_n, sigma, {}).velocity  # guidance changes nothing where there is no prompt to see
    torch.testing.assert_close(x_prev, x_n + column(sigma_prev - sigma) * v, rtol=0, atol=1e-5)


def test_each_sample_draws_its_guidance_from_the_range():
    def scales(method):
        data = batch(range(200), SMALL, x_0=torch.zeros(200, *SMALL))
        aims = []

        def target(x_t, sigma, cond):
            aims.append(x_t)
            return Prediction(0 * x_t)

        def teacher(x_t, sigma, cond):
            return Prediction(column(cond["text"]).expand_as(x_t))  # prompts 1, null prompts 0: v = s

        shown = []

        def student(x_t, sigma, cond):
            shown.append((x_t, sigma))
            return Prediction(0 * x_t)

        method.student_loss({"student": student, "student_ema": target, "teacher": teacher}, data, RNG, {})
        ((x_n, _),) = shown
        return ((aims[0] - x_n) * -method.euler_steps).flatten(1).mean(1)

    fixed = scales(LCM(50, 1.0, 2.0))
    torch.testing.assert_close(fixed, torch.full((200,), 2.0), rtol=0, atol=1e-3)
    drawn = scales(LCM(50, 1.0, (2.0, 6.0), "extra"))  # 3 to 7, standard
    assert 3 - 1e-3 < drawn.min() < 3.2 and 6.8 < drawn.max() < 7 + 1e-3
    assert drawn.mean().item() == pytest.approx(5, abs=4 * 4 / 12**0.5 / 200**0.5)


def test_guidance_needs_a_null_prompt():
    data = batch(range(2), SMALL, x_0=torch.zeros(2, *SMALL), uncond={})
    networks = dict.fromkeys(("student", "student_ema", "teacher"), DATA)
    with pytest.raises(ValueError, match="guidance needs unconditional"):
        LCM(guidance=2.0).student_loss(networks, data, RNG, {})


# Who is moved, randomness


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_an_update_reaches_the_student_alone(decay):
    networks, held, data = wans()
    (update,) = LCM(target_decay=decay).updates(0)
    assert update.roles == ("student",)
    update.loss(held, data, RNG, {}).loss.backward()
    without = [name for name, p in networks["student"].named_parameters() if p.grad is None or not p.grad.any()]
    assert all(name.endswith("to_k.bias") for name in without)  # softmax does not see them
    assert all(p.grad is None for role in ("student_ema", "teacher") for p in networks[role].parameters())


def test_the_target_is_the_average_or_the_student():
    assert LCM(target_decay=0.9).roles["student_ema"] == Average("student", 0.9)
    assert LCM(target_decay=0).roles == {"student": "trained", "teacher": "frozen"}
    _, held, data = wans()
    averaged, alone = (LCM(target_decay=d).student_loss(held, data, RNG, {}).loss for d in (0.9, 0.0))
    same = LCM(target_decay=0.9).student_loss(held | {"student_ema": held["student"]}, data, RNG, {}).loss
    assert torch.equal(alone, same) and not torch.equal(alone, averaged)


def test_a_loss_is_a_function_of_the_seed():
    _, held, data = wans()
    loss = LCM(guidance=(1.0, 3.0)).student_loss
    one, again, other = (loss(held, data, StatelessRng(seed, 3), {}).loss for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_what_is_logged():
    _, held, data = wans()
    logs = LCM().student_loss(held, data, RNG, {}).logs
    assert {"consistency_loss", "student_std", "data_std"} < logs.keys()
    assert sum(name.startswith("consistency_loss_by_sigma/") for name in logs) == 5
    assert sum(name.startswith("bf16_share_by_sigma/") for name in logs) == 5 and logs["bf16_share"] > 0
    assert not any(value.requires_grad for value in logs.values())


# The recipe, and what is refused


def test_the_students_steps_are_levels_that_it_learns():
    recipe = LCM(euler_steps=50, shift=3.0).sampler()
    assert recipe.kind == "sde" and recipe.nfe == 4
    shifted = [1000 * 3 * u / (1 + 2 * u) for u in (1, 0.74, 0.5, 0.24)]
    assert recipe == Sampler(tuple(pytest.approx(t) for t in shifted), "sde")
    levels = {1000 * sigma for sigma in LCM(euler_steps=50).phases.levels}
    assert all(set(LCM(sampling_steps=n).sampler().timesteps) <= levels for n in range(1, 51))


def test_the_head_of_a_run_names_the_standard_scale():
    assert "s = 3 to 7 (extra as given)" in LCM(guidance=(2.0, 6.0), guidance_form="extra").describe()
    assert "s = 3 (std as given)" in LCM().describe()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"sampling_steps": 51}, "sampling_steps, euler_steps = 51, 50"),
        ({"sampling_steps": 0}, "sampling_steps, euler_steps = 0, 50"),
        ({"shift": 0.0}, "shift, huber_c = 0.0"),
        ({"huber_c": 0.0}, "shift, huber_c = 3.0, 0.0"),
        ({"target_decay": 1.0}, "target_decay = 1.0"),
        ({"guidance": (3.0, 1.0)}, "lower end of the range first"),
    ],
)
def test_what_makes_no_sense_is_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        LCM(**keys)
