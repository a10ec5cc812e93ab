"""DCM's detail expert: consistency below the boundary, and what the heads on the teacher's features add."""

from contextlib import contextmanager

import pytest
import torch

from ray_distill.diffusion.losses import adversarial_loss, mse
from ray_distill.methods import DCM, DCMFine
from ray_distill.models.heads import FeatureDiscriminator, head_blocks, random_heads
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.rng import StatelessRng
from ray_distill.types import Average, Experts, Prediction, Start
from tests.tiny_wan import SHAPE, TEXT, tiny_wan
from tests.unit.toys import Gaussian, batch, column

RNG = StatelessRng(0)
DATA = Gaussian(2.0, 0.5)
SMALL = (1, 1, 2, 2)
OFF = {"distill_cfg": 0.0}


class Judge:
    """D = slope x at each token."""

    blocks = (0,)

    def __init__(self, slope=0.0):
        self.slope = slope

    def __call__(self, features):
        return torch.stack([self.slope * x.squeeze(-1) for x in features], dim=1)


def straight(x_t, sigma, cond):
    """The exact velocity where all data is 0.7."""
    return Prediction((x_t - 0.7) / column(sigma))


class Teacher:
    """An exact denoiser; its hidden features are x_t itself, a token an element, its readings three times that."""

    def __init__(self, exact=DATA):
        self.shown, self.exact = [], exact

    def __call__(self, x_t, sigma, cond, features=(), read=False):
        if features:
            self.shown.append((x_t.detach(), sigma, torch.is_grad_enabled()))
        hidden = tuple(x_t.reshape(len(x_t), -1, 1) for _ in features)
        return Prediction(self.exact(x_t, sigma, cond).velocity, hidden, tuple(3 * x for x in hidden))


def toys(slope=0.0, student=DATA):
    return {"student": student, "teacher": Teacher(), "discriminator": Judge(slope)}


def data_batch(n=16, shape=SMALL):
    return batch(range(n), shape, x_0=2 + 0.5 * RNG.noise("data", torch.arange(n), shape))


def wans(method):
    modules = {role: tiny_wan(seed) for seed, role in enumerate(("student", "student_ema", "teacher"))}
    networks = {role: WanDenoiser(module) for role, module in modules.items()}
    blocks, widths = head_blocks("discriminator", method.heads["discriminator"], "wan", modules["teacher"].config)
    modules["discriminator"] = random_heads(len(blocks), widths, 0)
    networks["discriminator"] = FeatureDiscriminator(modules["discriminator"], torch.float32, blocks)
    ids = torch.arange(2)
    text, x_0 = RNG.noise("text", ids, TEXT), RNG.noise("x_0", ids, SHAPE)
    given = batch(ids, SHAPE, x_0=x_0, cond={"text": text}, uncond={"text": torch.zeros_like(text)})
    return modules, networks, given


@contextmanager
def training(modules, role):
    """As the engines do: only ``role`` asks for gradients."""
    for name, module in modules.items():
        module.requires_grad_(name == role)
    yield


# Where the expert stands


def test_the_detail_experts_grid():
    """Oracle 14: steps 0 to 34 of 50, from the boundary down to raw index 1 of 1000."""
    timesteps = [1000 * sigma for sigma in DCMFine().phases.levels]
    assert len(timesteps) == 36
    assert [timesteps[i] for i in (0, 1, 2, 35)] == pytest.approx([16.732, 257.576, 414.634, 975.410], abs=5e-4)


def test_both_experts_sample_by_one_boundary():
    semantic, fine = DCM().sampler(), DCMFine().sampler()
    assert fine.timesteps == semantic.timesteps and fine.kind == "ode"
    assert fine.experts == Experts("semantic", "student", semantic.experts.boundary)
    last_detail, first_semantic = 1000 * DCMFine().phases.levels[-1], 1000 * DCM().phases.levels[1]
    assert fine.experts.boundary == pytest.approx((last_detail + first_semantic) / 2)


def test_roles():
    roles = DCMFine(target_decay=0.9).roles
    assert roles["semantic"] == Start("student") and roles["student_ema"] == Average("student", 0.9)
    assert (roles["student"], roles["teacher"], roles["discriminator"]) == ("trained", "frozen", "trained")
    assert [update.role for update in DCMFine().updates(7)] == ["student", "discriminator"]


@pytest.mark.parametrize(
    ("stride", "count", "blocks"),
    [(2, 30, tuple(range(1, 30, 2))), (8, 30, (5, 13, 21, 29)), (2, 3, (0, 2)), (1, 2, (0, 1)), (9, 4, (3,))],
)
def test_the_stride_counts_back_from_the_last_block(stride, count, blocks):
    heads = DCMFine(discriminator_stride=stride).heads["discriminator"]
    assert heads.of == "teacher" and heads.blocks(count) == blocks


# The closed forms


def test_values_at_logit_0():
    """Oracle 16: hinge costs a student 1 and a discriminator 2 there."""
    method = DCMFine(shift=3.0, **OFF)
    terms = method.student_loss(toys(), data_batch(), RNG, {})
    assert terms.logs["adversarial_loss"] == 1
    assert method.discriminator_loss(toys(), data_batch(), RNG, {}).loss == 2


def test_the_terms_add_up():
    def student(x_t, sigma, cond):
        return Prediction(DATA(x_t, sigma, cond).velocity + 0.4)

    def loss(**keys):
        method = DCMFine(shift=3.0, **OFF, **keys)
        return method.student_loss(toys(-0.2, student), data_batch(), RNG, {})

    bare, both = loss(adversarial_weight=0.0, feature_weight=0.0), loss(adversarial_weight=0.3, feature_weight=7.0)
    logs = both.logs
    assert logs["adversarial_loss"] > 0.1 and logs["feature_loss"] > 1e-6
    extra = 0.3 * logs["adversarial_loss"] + 7 * logs["feature_loss"]
    torch.testing.assert_close(both.loss - bare.loss, extra, rtol=1e-4, atol=0)
    *_, terms = DCMFine(shift=3.0, **OFF).consistency(toys(0.0, student), data_batch(), RNG)
    assert torch.equal(terms.loss, bare.loss) and "temporal_loss" not in terms.logs


def test_equal_samples_have_equal_features():
    networks = toys(0.7) | {"student": straight, "teacher": Teacher(straight)}
    data = batch(range(16), SMALL, x_0=torch.full((16, *SMALL), 0.7))
    logs = DCMFine(shift=3.0, **OFF).student_loss(networks, data, RNG, {}).logs
    assert logs["feature_loss"] < 1e-10 and logs["consistency_loss"] < 1e-6


def test_pred_and_aim_are_noised_alike_within_their_phase():
    """The same eps and level for both, from the end of the phase up; the marginal at that level is exact."""
    method, networks, data = DCMFine(shift=3.0, multiphase=2, **OFF), toys(), data_batch(512)
    shared = {}
    method.student_loss(networks, data, RNG, shared)
    (fake, sigma, with_grad), (real, same, without) = networks["teacher"].shown
    assert torch.equal(sigma, same) and (with_grad, without) == (True, False)
    phases, u = method.phases, RNG.uniform("step", data.sample_ids)
    end, k = phases.draw(u).sigma_end, phases.index(u)
    a = ((1 - sigma) / (1 - end)).reshape(-1, 1, 1, 1, 1)
    torch.testing.assert_close(fake - real, a * (shared["pred"] - shared["aim"]), rtol=1e-3, atol=1e-5)
    levels = torch.tensor(phases.levels)
    n, top = (sigma[:, None] - levels).abs().argmin(1), torch.tensor([*phases.edges[1:], len(levels) - 1])
    assert ((n >= phases.edge(k)) & (n < top[(k >= phases.edges[1]).long()])).all()
    assert len(set(n.tolist())) > 20
    s = sigma.reshape(-1, 1, 1, 1, 1)
    unit = (real - 2 * (1 - s)) / ((1 - s) ** 2 * 0.25 + s**2).sqrt()  # aim is of N(2, .5^2) at its level
    assert unit.mean().abs().item() < 4 / unit.numel() ** 0.5 and abs(unit.std().item() - 1) < 0.06


def test_the_discriminator_learns_from_the_students_own_pair():
    """It calls no student again, and tells pred from aim."""
    method, networks, data, shared = DCMFine(shift=3.0, **OFF), toys(0.5), data_batch(), {}
    method.student_loss(networks, data, RNG, shared)
    terms = method.discriminator_loss({**networks, "student": None}, data, RNG, shared)
    fake, real = (x for x, *_ in networks["teacher"].shown[-2:])
    wanted = adversarial_loss(0.5 * fake, False, "hinge") + adversarial_loss(0.5 * real, True, "hinge")
    torch.testing.assert_close(terms.loss, wanted)
    assert not any(grad for *_, grad in networks["teacher"].shown[-2:])
    assert mse(fake, real) > 0


# Who is moved, randomness


def test_an_update_reaches_its_own_role_alone():
    method = DCMFine(shift=3.0, target_decay=0.9, discriminator_stride=1)
    for update in method.updates(0):
        modules, networks, data = wans(method)
        role = update.role
        with training(modules, role):
            update.loss(networks, data, RNG, {}).loss.backward()
        without = [n for n, p in modules[role].named_parameters() if p.grad is None or not p.grad.any()]
        # Softmax does not see a key's bias; a last bias raises both logits, which cancel where no hinge is slack.
        assert all(name.endswith(("to_k.bias", "judge.bias")) for name in without), without
        others = [module for name, module in modules.items() if name != role]
        assert all(p.grad is None for module in others for p in module.parameters())


def test_the_students_gradient_comes_through_the_teachers_features():
    def gradient(**keys):
        method = DCMFine(shift=3.0, discriminator_stride=1, **keys)
        modules, networks, data = wans(method)
        with training(modules, "student"):
            method.student_loss(networks, data, RNG, {}).loss.backward()
        return modules["student"].proj_out.weight.grad

    bare = gradient(adversarial_weight=0.0, feature_weight=0.0)
    for keys in ({"feature_weight": 0.0}, {"adversarial_weight": 0.0}):
        assert (gradient(**keys) - bare).abs().max() > 1e-6


def test_a_loss_is_a_function_of_the_seed():
    method = DCMFine()
    _, held, data = wans(method)
    for loss in (method.student_loss, method.discriminator_loss):
        one, again, other = (loss(held, data, StatelessRng(seed, 3), {}).loss for seed in (0, 0, 1))
        assert torch.equal(one, again) and not torch.equal(one, other)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"boundary": 0.0}, "boundary = 0: the detail expert has no levels left"),
        ({"discriminator_stride": 0}, "discriminator_stride = 0.5, 1.0, 0"),
        ({"feature_weight": -1.0}, "need weights of 0 .off. or more"),
        ({"multiphase": (0.8,)}, "multiphase = .0.8.: give raw levels between 0.001 and 0.7"),
    ],
)
def test_what_makes_no_sense_is_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        DCMFine(**keys)
