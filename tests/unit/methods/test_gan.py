"""DMD2's GAN term: its values, who is moved, what it leaves alone, and where it pulls."""

from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import nn

from ray_distill.methods import DMD, GAN, METHODS
from ray_distill.models.heads import FeatureDiscriminator, head_blocks, random_heads
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.rng import StatelessRng
from ray_distill.types import Prediction
from tests.tiny_wan import SHAPE, TEXT, tiny_wan
from tests.unit.toys import Gaussian, batch

RNG = StatelessRng(0)
TINY = (1, 1, 2, 2)


@dataclass
class Tapped:
    """A denoiser whose hidden features are x_t itself, a token an element; notes what it was shown."""

    denoiser: object
    x: list = field(default_factory=list)
    sigma: list = field(default_factory=list)
    grads: list = field(default_factory=list)

    def __call__(self, x_t, sigma, cond, features=()):
        if features:
            self.x.append(x_t.detach())
            self.sigma.append(sigma)
            self.grads.append(torch.is_grad_enabled())
        v = self.denoiser(x_t, sigma, cond).velocity
        return Prediction(v, tuple(x_t.reshape(len(x_t), -1, 1) for _ in features))


class Judge(nn.Module):
    """D = slope x + offset at each token."""

    blocks = (0,)

    def __init__(self, slope=0.0, offset=0.0):
        super().__init__()
        self.slope, self.offset = nn.Parameter(torch.tensor(slope)), nn.Parameter(torch.tensor(offset))

    def forward(self, features):
        return torch.stack([self.slope * x.squeeze(-1) + self.offset for x in features], dim=1)


class OneStep(nn.Module):
    """x_0 = mean + 0.5 x_1 from pure noise."""

    def __init__(self, mean):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean))

    def forward(self, x_t, sigma, cond, features=()):
        return Prediction(x_t - (self.mean + 0.5 * x_t))


def toys(judge=None, **given):
    """Both scores right, so that DMD's own gradient is exactly 0: what moves is the GAN's."""
    same = {"student": OneStep(0.0), "fake_score": Tapped(Gaussian(2.0)), "teacher": Tapped(Gaussian(2.0))}
    return same | {"discriminator": judge or Judge()} | given


def data(ids=range(4), mean=2.0, shape=TINY):
    given = batch(ids, shape)
    return replace(given, x_0=mean + 0.5 * RNG.noise("data", given.sample_ids, shape))


def one_step(**fields):
    return GAN((1000.0,), teacher_guidance=1.0, **fields)


def wans(method):
    roles = {"student": 1, "fake_score": 2, "teacher": 3}
    modules = {role: tiny_wan(seed) for role, seed in roles.items()}
    blocks, widths = head_blocks("discriminator", method.heads["discriminator"], "wan", modules["teacher"].config)
    modules["discriminator"] = random_heads(len(blocks), widths, 0)
    networks = {role: WanDenoiser(modules[role]) for role in roles}
    networks["discriminator"] = FeatureDiscriminator(modules["discriminator"], torch.float32, blocks)
    text = RNG.noise("text", torch.arange(2), TEXT)
    x_0 = RNG.noise("data", torch.arange(2), SHAPE)
    given = batch(range(2), SHAPE, cond={"text": text}, uncond={"text": torch.zeros_like(text)}, x_0=x_0)
    return modules, networks, given


@contextmanager
def training(modules, role):
    """As the engines do: only ``role`` asks for gradients."""
    for name, module in modules.items():
        module.requires_grad_(name == role)
    yield
    for module in modules.values():
        module.requires_grad_(True)


# The closed forms


@pytest.mark.parametrize(("form", "student", "discriminator"), [("softplus", 0.693147, 1.386294), ("hinge", 1.0, 2.0)])
def test_values_at_logit_0(form, student, discriminator):
    """Oracle 16."""
    method = one_step(gan_loss=form)
    terms = method.student_loss(toys(), data(), RNG, {})
    assert terms.logs["gan_loss"].item() == pytest.approx(student, abs=1e-6)
    assert terms.loss.item() == pytest.approx(0.03 * student, abs=1e-6)  # DMD's own part is 0
    terms = method.discriminator_loss(toys(), data(), RNG, {})
    assert terms.loss.item() == terms.logs["discriminator_loss"].item() == pytest.approx(discriminator, abs=1e-6)


def test_approximate_r1():
    """D = a x: (D(x_0_s) - D((x_0 + r n)_s))^2 = (a (1 - s) r n)^2, and DMD2 has none."""
    judge, given = Judge(3.0), data(range(50), shape=(1, 1, 20, 20))
    method = one_step(gan_r1_weight=10.0, gan_r1_noise=0.2)
    plain = one_step().discriminator_loss(toys(judge), given, RNG, {})
    terms = method.discriminator_loss(toys(judge), given, RNG, {})
    sigma = RNG.uniform("discriminator/gan_sigma", given.sample_ids)
    wanted = ((3.0 * (1 - sigma) * 0.2) ** 2).mean().item()
    assert terms.logs["discriminator_r1"].item() == pytest.approx(wanted, rel=0.03)
    assert (terms.loss - plain.loss).item() == pytest.approx(10 * terms.logs["discriminator_r1"].item(), rel=1e-4)
    assert "discriminator_r1" not in plain.logs


def test_real_and_fake_are_compared_at_one_level_with_one_noise():
    """Over [0, gan_max_timestep), a level a sample; the student's own pass draws anew, as the teacher's scores do."""
    given = data(range(200), shape=(1, 1, 1, 1))
    networks, method = toys(), one_step(gan_max_timestep=400.0)
    method.discriminator_loss(networks, given, RNG, shared := {})
    teacher = networks["teacher"]
    fake, real = teacher.x
    assert torch.equal(*teacher.sigma)
    s = teacher.sigma[0].reshape(-1, 1, 1, 1, 1)
    torch.testing.assert_close(fake - real, (1 - s) * (shared["fake_x"] - given.x_0), atol=1e-5, rtol=0)
    assert 0 <= s.min() < 0.02 and 0.38 < s.max() < 0.4
    method.student_loss(networks, given, RNG, {})
    assert not torch.equal(teacher.sigma[2], teacher.sigma[0])


# Who is moved


def moved(modules):
    return {name: any(p.grad is not None and p.grad.any() for p in m.parameters()) for name, m in modules.items()}


@pytest.mark.parametrize("features", ["teacher", "fake_score"])
def test_each_update_moves_its_own_role(features):
    method = GAN(gan_features=features, gan_trunk_weight=0.01 if features == "fake_score" else 0.0)
    for role in ("student", "fake_score", "discriminator"):
        modules, networks, given = wans(method)
        with training(modules, role):
            getattr(method, f"{role}_loss")(networks, given, RNG, {}).loss.backward()
        assert moved(modules) == {name: name == role for name in modules}
    assert all(p.grad.any() for p in modules["discriminator"].parameters())


def test_the_discriminators_update_keeps_no_graph_of_what_it_looks_at():
    """Even where nothing else forbids it: student, teacher and fake score have no gradient at all."""
    for features in ("teacher", "fake_score"):
        modules, networks, given = wans(method := GAN(gan_features=features))
        method.discriminator_loss(networks, given, RNG, {}).loss.backward()
        assert all(p.grad is None for name in networks if name != "discriminator" for p in modules[name].parameters())


@pytest.mark.parametrize("features", ["teacher", "fake_score"])
def test_the_students_gan_gradient_comes_through_the_features(features):
    """Scores that are equal leave nothing else; without the term there is none."""
    method = GAN(teacher_guidance=1.0, gan_features=features)
    for weight in (0.03, 0.0):
        modules, networks, given = wans(method)
        modules["fake_score"].load_state_dict(modules["teacher"].state_dict())
        with training(modules, "student"):
            replace(method, gan_weight=weight).student_loss(networks, given, RNG, {}).loss.backward()
        assert moved(modules) == {name: name == "student" and weight > 0 for name in modules}


def test_the_trunk_learns_only_where_it_is_asked_to():
    """gan_trunk_weight adds the discriminator's loss to the fake score's, and nothing to what is logged of it."""
    gradients = []
    for weight in (0.0, 0.01, 0.02):
        method = GAN(gan_features="fake_score", gan_trunk_weight=weight)
        modules, networks, given = wans(method)
        with training(modules, "fake_score"):
            method.fake_score_loss(networks, given, RNG, {}).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in modules["fake_score"].blocks[0].parameters()]))
    plain, once, twice = gradients
    assert (once - plain).any()
    torch.testing.assert_close(twice - plain, 2 * (once - plain), rtol=1e-3, atol=1e-6)


# What is left alone


def test_without_weight_the_student_learns_as_in_plain_dmd_bit_for_bit():
    plain, method = DMD(ts_schedule=True), GAN(ts_schedule=True, gan_weight=0.0)
    for name in ("student_loss", "fake_score_loss"):
        found = []
        for each in (plain, method):
            modules, networks, given = wans(GAN())
            loss = getattr(each, name)(networks, given, RNG.at(3), {}).loss
            loss.backward()
            found.append((loss, [p.grad for m in modules.values() for p in m.parameters()]))
        assert torch.equal(found[0][0], found[1][0])
        for a, b in zip(found[0][1], found[1][1], strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


def test_dmds_own_logs_and_draws_are_the_same_beside_the_term():
    _, networks, given = wans(GAN())
    for name in ("student_loss", "fake_score_loss"):
        plain = getattr(DMD(), name)(networks, given, RNG, {}).logs
        logs = getattr(GAN(), name)(networks, given, RNG, {}).logs
        assert all(torch.equal(logs[key], plain[key]) for key in plain if not plain[key].isnan().any())


def test_a_loss_is_a_function_of_the_seed():
    method = GAN(gan_r1_weight=1.0)
    _, networks, given = wans(method)
    for name in ("student_loss", "discriminator_loss"):
        loss = getattr(method, name)
        one, again, other = (loss(networks, given, StatelessRng(seed, 3), {}).loss for seed in (0, 0, 1))
        assert torch.equal(one, again) and not torch.equal(one, other)


def test_micro_batches_sum_up_to_the_batch():
    method, networks = one_step(gan_r1_weight=1.0), toys(Judge(1.0))
    for name in ("student_loss", "discriminator_loss"):
        parts = []
        for ids in ([0, 1], [2, 3]):
            parts.append(getattr(method, name)(networks, data(ids), RNG, {}).loss)
        torch.testing.assert_close(torch.stack(parts).mean(), getattr(method, name)(networks, data(), RNG, {}).loss)


def test_schedule_and_registry():
    """The discriminator is updated wherever the fake score is, after it."""
    roles = [[u.role for u in GAN(student_interval=2).updates(step)] for step in range(2)]
    assert roles == [["fake_score", "discriminator"], ["student", "fake_score", "discriminator"]]
    replaced = GAN(student_interval=2, student_turn="replaces")
    assert [u.role for u in replaced.updates(1)] == ["student"]
    assert METHODS["dmd_gan"] is GAN and GAN().uses_latents
    assert GAN().sampler() == DMD().sampler()


@pytest.mark.parametrize("reuse", [True, False])
def test_one_rollout_serves_fake_score_and_discriminator(reuse):
    method, shared = GAN((1000.0, 500.0), student_interval=1, teacher_guidance=1.0, reuse_rollout=reuse), {}
    networks, seen = toys(), []

    def student(x_t, sigma, cond):
        seen.append(sigma)
        return OneStep(0.0)(x_t, sigma, cond)

    class Last(StatelessRng):
        def control(self, purpose, high):
            return 1

    for update in method.updates(0):
        update.loss(networks | {"student": student}, data(), Last(0), shared)
    assert len(seen) == (2 if reuse else 4)


def test_the_discriminator_takes_its_turn_with_the_student():
    """Then it reads the features of the student's update again: a step has one forward of the teacher less."""
    method = one_step(student_interval=2, discriminator_turn="student")
    assert [[u.role for u in method.updates(step)] for step in range(2)] == [
        ["fake_score"],
        ["student", "fake_score", "discriminator"],
    ]
    looks = {}
    for turn in ("student", "fake_score"):
        networks, shared = toys(), {}
        for update in one_step(student_interval=1, discriminator_turn=turn).updates(0):
            update.loss(networks, data(), RNG, shared)
        looks[turn] = networks["teacher"]
    assert len(looks["student"].x) == 2 and len(looks["fake_score"].x) == 3
    (sigma, again), (fake, real) = looks["student"].sigma, looks["student"].x
    assert torch.equal(sigma, again)
    x = (fake - real + (1 - sigma.reshape(-1, 1, 1, 1, 1)) * data().x_0) / (1 - sigma.reshape(-1, 1, 1, 1, 1))
    torch.testing.assert_close(x, 0.5 * RNG.noise("student/noise-1", torch.arange(4), TINY), atol=1e-5, rtol=0)


@pytest.mark.parametrize("features", ["teacher", "fake_score"])
def test_the_students_features_give_the_loss_of_features_made_anew(features):
    """Those of the teacher are kept, without gradient; the fake score has moved since, and is asked again."""
    method = GAN(gan_features=features, discriminator_turn="student", gan_r1_weight=1.0)
    modules, networks, given = wans(method)
    method.student_loss(networks, given, RNG, shared := {})
    kept = features == "teacher"
    assert ("judged" in shared) == kept and not any(value.requires_grad for value in shared.values())
    for module in modules.values():
        module.zero_grad()
    terms = method.discriminator_loss(networks, given, RNG, shared)
    terms.loss.backward()
    assert moved(modules) == {name: name == "discriminator" for name in modules}
    if kept:
        fake = method.logits(shared["judged"], networks, given, RNG, "student", trunk=False)
        anew = method.separate(shared["judged"], networks, given, RNG, trunk=False, fake=fake)
        assert torch.equal(terms.loss, anew.loss)


# Where it pulls


@pytest.mark.parametrize("form", ["softplus", "hinge"])
@pytest.mark.parametrize("features", ["teacher", "fake_score"])
def test_the_students_mean_moves_towards_the_data(form, features):
    """Data at 2, a student at 0, scores that say nothing: the GAN alone, a discriminator step to a student's."""
    method = one_step(gan_loss=form, gan_weight=1.0, gan_features=features, student_interval=1)
    judge, student = Judge(), OneStep(0.0)
    networks = toys(judge, student=student)
    rates = {"student": (student, 0.05), "discriminator": (judge, 0.1)}
    means = []
    for step in range(60):
        given = data(range(step * 8, step * 8 + 8))
        for update in method.updates(step):
            if (role := update.role) in rates:
                module, rate = rates[role]
                loss = update.loss(networks, given, RNG.at(step), {}).loss
                grads = torch.autograd.grad(loss, list(module.parameters()))
                with torch.no_grad():
                    for p, grad in zip(module.parameters(), grads, strict=True):
                        p -= rate * grad
        means.append(student.mean.item())
    assert means[20] > 0.02 and means[-1] > means[20] and 0.2 < means[-1] < 3.0
    assert judge.slope.item() > 0


def test_a_causal_rollout_is_held_against_as_many_frames_of_its_clip():
    method = METHODS["self_forcing_gan"](num_frame_per_block=1, num_training_frames=2, timesteps=(1000.0,))
    modules, networks, given = wans(method)
    shown = []

    def teacher(x_t, sigma, cond, features=()):
        shown.append(x_t.shape[2])
        return WanDenoiser(modules["teacher"])(x_t, sigma, cond, features=features)

    networks["teacher"] = teacher
    assert method.discriminator_loss(networks, given, RNG, {}).loss.isfinite() and shown == [2, 2]
    with training(modules, "student"):
        method.student_loss(networks, given, RNG, {}).loss.backward()
    assert moved(modules) == {name: name == "student" for name in modules}
    assert [u.role for u in method.updates(0)] == ["fake_score", "discriminator"] and method.uses_latents
    assert "GAN" in method.describe() and "chunks of 1" in method.describe()


@pytest.mark.parametrize(
    ("count", "blocks"), [(30, (15, 22, 29)), (40, (21, 30, 39)), (2, (1,)), (1, (0,)), (12, (6, 9, 11))]
)
def test_depths_are_blocks_of_any_model(count, blocks):
    """The defaults are FastGen's blocks of Wan 1.3B and 14B."""
    assert GAN().heads["discriminator"].blocks(count) == blocks
    assert GAN(gan_features="fake_score").heads["discriminator"].of == "fake_score"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gan_weight": -1.0}, "gan_weight, .* = .-1.0, 0.0, 0.0., 0.1: need weights of 0"),
        ({"gan_r1_noise": 0.0}, "gan_r1_noise = .*, 0.0"),
        ({"gan_trunk_weight": 0.1}, "gan_trunk_weight = 0.1: features of the teacher stay frozen; use gan_features"),
        ({"gan_max_timestep": 0.0}, "gan_max_timestep = 0.0: give a timestep in"),
        ({"gan_max_timestep": 1001.0}, "gan_max_timestep = 1001.0"),
        ({"gan_depths": ()}, r"gan_depths = \[\]: give one or more"),
        ({"gan_depths": (0.0, 1.0)}, r"gan_depths = \[0.0, 1.0\]"),
        ({"gan_depths": (1.2,)}, r"gan_depths = \[1.2\]"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        GAN(**fields)
