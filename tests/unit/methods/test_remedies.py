"""PDMD's projection, DP-DMD's diversity anchor and f-distill's weight: closed forms, traps, and who is moved."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from ray_distill.diffusion.losses import divergence_weight, dmd_gradient, surrogate, without_residual
from ray_distill.methods import DMD, GAN
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.plan.forwards import cycle
from ray_distill.rng import StatelessRng
from ray_distill.types import Prediction
from tests.tiny_wan import SHAPE, TEXT, tiny_wan
from tests.unit.toys import Gaussian, batch

RNG = StatelessRng(0)
S, M = 0.5, 2.0


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mean_of(x_s, sigma, mean, std=S):
    """E[x_0 | x_s] of N(mean, std^2)."""
    return mean + (1 - sigma) * std**2 / ((1 - sigma) ** 2 * std**2 + sigma**2) * (x_s - (1 - sigma) * mean)


# Projection (PDMD)


def test_the_projection_leaves_what_is_orthogonal():
    d, r = torch.tensor([[1.0, 0, 0, 2], [1, 2, 3, 4]]), torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0]])
    kept, share, cosine = without_residual(d, r)
    torch.testing.assert_close(kept, torch.tensor([[-0.5, 0, 0, 0.5], [1, 2, 3, 4]]))  # r = 0 leaves d
    torch.testing.assert_close(share, torch.tensor([(0.5 / 5) ** 0.5, 1]))
    torch.testing.assert_close(cosine, torch.tensor([3 / 10**0.5, 0]))
    d, r = draw(5, 2, 3, 4, 4), draw(5, 2, 3, 4, 4, seed=1)
    kept, share, _ = without_residual(d, r)
    assert (kept * r).flatten(1).sum(1).abs().max() <= 1e-6 and share.max() <= 1
    torch.testing.assert_close(without_residual(kept, r)[0], kept, atol=1e-9, rtol=0)  # idempotent
    torch.testing.assert_close(without_residual(d, 7 * r)[0], kept, atol=1e-8, rtol=0)  # blind to the length of r
    assert without_residual(draw(5, 1), draw(5, 1, seed=1))[0].abs().max() < 1e-4  # one dimension: nothing is left


@pytest.mark.parametrize(("sigma", "left"), [(0.1, 0.1156), (0.3, 0.5405), (0.5, 0.6897), (0.8, 0.7323)])
def test_how_much_of_a_fake_scores_error_survives(sigma, left):
    """An error e of its mean shifts d and -r alike: V / (V + e^2) of it stays, V = s^2 sigma^2 / D, e = .3; and of what
    is wanted, which does not depend on r, at least .99."""
    x = S * draw(200, 256)
    x_s = (1 - sigma) * x + sigma * draw(200, 256, seed=1)
    e, wanted = torch.full((1, 256), 0.3, dtype=torch.float64), draw(1, 256, seed=2)
    right = mean_of(x_s, sigma, 0.0)
    kept = without_residual(e.expand_as(x), x - right - e)[0]
    assert (kept * e).sum(1).mean() / e.square().sum() == pytest.approx(left, abs=0.005)
    kept = without_residual(wanted.expand_as(x), x - right)[0]
    assert (kept * wanted).sum(1).mean() / wanted.square().sum() >= 0.99


def lag(interval, rate, projection, dims=64, steps=300):
    """The largest mean of a student of N(a, s^2) on its way to M behind a fake score that follows at rate .05."""
    random = torch.Generator().manual_seed(1)
    a, b, most = torch.zeros(dims, dtype=torch.float64), torch.zeros(dims, dtype=torch.float64), 0.0

    def noised(a):
        x = a + S * torch.randn(16, dims, generator=random, dtype=torch.float64)
        sigma = 0.02 + 0.96 * torch.rand(16, 1, generator=random, dtype=torch.float64)
        return x, (1 - sigma) * x + sigma * torch.randn(16, dims, generator=random, dtype=torch.float64), sigma

    for _ in range(steps):
        for _ in range(interval):
            x, *_ = noised(a)
            b = b + 0.05 * (x.mean(0) - b)
        x, x_s, sigma = noised(a)
        mu_fake, mu_real = mean_of(x_s, sigma, b), mean_of(x_s, sigma, M)
        g, _ = dmd_gradient(x, mu_fake, mu_real)
        a = a - rate * (without_residual(g, x - mu_fake)[0] if projection else g).mean(0)
        most = max(most, a.mean().item())
    return most, a.mean().item()


def test_projection_halves_the_overshoot_behind_a_lagging_fake_score():
    """A rate of .5 a student step: DMD passes 2 by 2.3 and more, PDMD by less than half of that; both end at 2."""
    (plain, end), (projected, end_projected) = (lag(1, 0.5, projection) for projection in (False, True))
    assert plain - M > 2.3 and 0.2 < projected - M < 0.5 * (plain - M)
    assert end == pytest.approx(M, abs=0.02) and end_projected == pytest.approx(M, abs=0.02)


@pytest.mark.parametrize("start", [0.25, 1.0])
def test_fresh_noise_leaves_contrast_to_be_learnt(start):
    """x = c z with a perfect fake score: the projection needs fresh noise, under which it only takes away noise. On the
    query's own noise it removes the whole correction, and c stays."""
    ends = {}
    for fresh in (True, False):
        c, random = torch.tensor(start, dtype=torch.float64), torch.Generator().manual_seed(0)
        for _ in range(500):
            z = torch.randn(8, 64, generator=random, dtype=torch.float64)
            sigma = 0.02 + 0.96 * torch.rand(8, 1, generator=random, dtype=torch.float64)
            noise = torch.randn(8, 64, generator=random, dtype=torch.float64) if fresh else z
            x_s, x = (1 - sigma) * c * z + sigma * noise, c * z
            mu_fake, mu_real = mean_of(x_s, sigma, 0.0, c), mean_of(x_s, sigma, 0.0)
            g, _ = dmd_gradient(x, mu_fake, mu_real)
            c = c - 0.05 * (without_residual(g, x - mu_fake)[0] * z).mean()
        ends[fresh] = c.item()
    assert ends[True] == pytest.approx(0.5, abs=0.02)
    assert ends[False] == pytest.approx(start, abs=0.02)


class Says(nn.Module):
    """A student whose x_0-prediction is ``x_0``."""

    def __init__(self, x_0):
        super().__init__()
        self.x_0 = nn.Parameter(x_0)

    def forward(self, x_t, sigma, cond):
        return Prediction((x_t - self.x_0) / sigma.reshape(-1, 1, 1, 1, 1))


def test_the_students_gradient_is_the_projected_one_with_the_normaliser_from_before():
    data, method = batch(shape=(1, 2, 4, 4)), DMD((1000.0,), teacher_guidance=1.0, projection=True)
    student = Says(RNG.noise("x", data.sample_ids, data.latent_shape))
    fake, real = Gaussian(draw(1, 1, 2, 4, 4).float()), Gaussian(2.0)
    terms = method.student_loss({"student": student, "fake_score": fake, "teacher": real}, data, RNG, {})
    terms.loss.backward()
    x_s, sigma, _ = method.diffuse(student.x_0.detach(), data, RNG, "student", (0, 1000))
    s = sigma.reshape(-1, 1, 1, 1, 1)
    mu_fake, mu_real = (x_s - s * score(x_s, sigma, {}).velocity for score in (fake, real))
    g, _ = dmd_gradient(student.x_0.detach(), mu_fake, mu_real)
    wanted, kept, _ = without_residual(g, student.x_0.detach() - mu_fake)
    torch.testing.assert_close(student.x_0.grad, wanted / wanted.numel(), rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(terms.logs["projection_removed"], 1 - kept, rtol=1e-3, atol=1e-4)
    assert kept.max() < 1 and any(name.startswith("projection_cosine_by_sigma/") for name in terms.logs)
    plain = replace(method, projection=False).student_loss(
        {"student": student, "fake_score": fake, "teacher": real}, data, RNG, {}
    )
    assert not any("projection" in name for name in plain.logs)
    assert plain.loss.item() == pytest.approx(surrogate(student.x_0, g).item()) != terms.loss.item()


# The diversity anchor (DP-DMD)


@dataclass(frozen=True)
class Exact:
    """The exact ODE's solver in the place of Euler's: the velocity that leads to ``sigma_next`` in one step."""

    sigma_next: float

    def __call__(self, x_t, sigma, cond):
        end = Gaussian(M).flow_map(x_t, sigma, torch.full_like(sigma, self.sigma_next))
        return Prediction((x_t - end) / (1 - self.sigma_next))


def anchored(second, teacher, **fields):
    """v_bar at x_1 = 1.3: minus the velocity of a student that says 0 leaves the loss's root."""
    method = DMD((1000.0, second), diversity_weight=0.05, teacher_guidance=1.0, **fields)
    student = lambda x_t, sigma, cond: Prediction(torch.zeros_like(x_t))  # noqa: E731
    eps = torch.full((2, 1, 1, 1, 1), 1.3, dtype=torch.float64)
    networks = {"student": student, "teacher": teacher}
    return method.anchor_loss(networks, batch(range(2)), eps, method.timesteps, method.teacher_scale).sqrt().item()


def test_the_anchor_is_the_average_velocity_of_the_teachers_way():
    """x_1 = 1.3, N(2, .5^2): -.8534441854 down to .5, -.7064993501 to .9615384615, and -.7051856429 where Euler takes 5
    steps of its 30 at shift 5 to there."""
    for second, wanted in ((500.0, 0.8534441854), (961.5384615384615, 0.7064993501)):
        assert anchored(second, Exact(second / 1000), diversity_steps=1) == pytest.approx(wanted, abs=2e-6)
    calls = []

    def teacher(x_t, sigma, cond):
        calls.append(sigma[0].item())
        return Gaussian(M)(x_t, sigma, cond)

    assert anchored(961.5384615384615, teacher) == pytest.approx(0.7051856429, abs=1e-6)
    assert len(calls) == 5 and calls == sorted(calls, reverse=True)


def wans():
    modules = {role: tiny_wan(seed) for seed, role in enumerate(("student", "fake_score", "teacher"))}
    text = RNG.noise("text", torch.arange(2), TEXT)
    data = batch(range(2), SHAPE, cond={"text": text}, uncond={"text": torch.zeros_like(text)})
    return modules, {role: WanDenoiser(module) for role, module in modules.items()}, data


@pytest.mark.parametrize("fields", [{"projection": True}, {"diversity_weight": 0.05, "student_exits": (0, 1, 1)}])
def test_a_students_update_reaches_the_student_alone_and_is_a_function_of_the_seed(fields):
    modules, networks, data = wans()
    method = DMD(diversity_steps=4, **fields)
    losses = [method.student_loss(networks, data, StatelessRng(seed, 3), {}).loss for seed in (0, 0, 1)]
    assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])
    losses[0].backward()
    assert any(p.grad is not None and p.grad.any() for p in modules["student"].parameters())
    assert all(p.grad is None for role in ("fake_score", "teacher") for p in modules[role].parameters())


def test_the_anchor_starts_where_the_rollout_does_and_adds_its_weight():
    seen, plain = [], DMD(teacher_guidance=1.0, diversity_steps=4)
    given = {"fake_score": Gaussian(0.0), "teacher": Gaussian(2.0)}

    def student(x_t, sigma, cond):
        seen.append((x_t, sigma))
        return Gaussian(1.0)(x_t, sigma, cond)

    method = replace(plain, diversity_weight=0.5)
    terms = method.student_loss(given | {"student": student}, batch(), RNG, {})
    assert torch.equal(seen[0][0], seen[-1][0]) and seen[-1][1].tolist() == [1.0] * 4
    before = plain.student_loss(given | {"student": student}, batch(), RNG, {})
    assert terms.loss.item() == pytest.approx(before.loss.item() + 0.5 * terms.logs["diversity_loss"].item())
    assert "diversity_loss" not in before.logs


def test_the_plan_counts_the_anchors_forwards():
    """Two of the teacher (guided) at each level above the second step's, and the student's own."""
    plain, anchored = (cycle(DMD(diversity_weight=w, diversity_steps=4), 5) for w in (0.0, 0.05))
    levels = sum(t > 757 for t in (1000, 937.5, 833.3, 625))
    assert anchored.expected("teacher", grad=False) == plain.expected("teacher", grad=False) + 2 * levels
    assert anchored.expected("student", grad=True) == plain.expected("student", grad=True) + 1


# f-distill's weight


def test_weights_of_the_divergences():
    """h(r) / h(1) at r = 3, and where r is held: exp(D) in [0.1, 20]."""
    d = torch.log(torch.tensor([1.0, 3.0])).reshape(2, 1, 1).expand(2, 3, 5)
    wanted = {"rkl": 1, "kl": 3, "js": 1.5, "sf": 0.5, "neyman": 1 / 3, "sh": 3**0.5, "jf": 2}
    for name, at_3 in wanted.items():
        torch.testing.assert_close(divergence_weight(d, name), torch.tensor([1.0, at_3]))
    far = divergence_weight(torch.tensor([-50.0, 50.0]).reshape(2, 1, 1), "kl")
    torch.testing.assert_close(far, torch.tensor([0.1, 20.0]))


class Judge(nn.Module):
    """D = ``slope`` times the hidden feature."""

    blocks = (0,)

    def __init__(self, slope):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, features):
        return torch.stack([self.slope * x.squeeze(-1) for x in features], dim=1)


def tapped(mean):
    def denoise(x_t, sigma, cond, features=()):
        v = Gaussian(mean)(x_t, sigma, cond).velocity
        return Prediction(v, tuple(x_t.reshape(len(x_t), -1, 1) for _ in features))

    return denoise


def test_the_students_gradient_is_weighed_by_the_discriminator_at_the_scores_level():
    data = replace(batch(shape=(1, 2, 4, 4)), x_0=RNG.noise("data", torch.arange(4), (1, 2, 4, 4)))
    x = RNG.noise("x", data.sample_ids, data.latent_shape)
    plain = GAN((1000.0,), teacher_guidance=1.0, gan_weight=0.0)
    judge, gradients = Judge(0.7), {}
    for divergence in ("rkl", "js"):
        student = Says(x.clone())
        networks = {"student": student, "fake_score": tapped(0.0), "teacher": tapped(2.0), "discriminator": judge}
        method = replace(plain, divergence=divergence)
        terms = method.student_loss(networks, data, RNG, {})
        terms.loss.backward()
        gradients[divergence] = student.x_0.grad
    x_s, _, _ = plain.diffuse(x, data, RNG, "student", (0, 1000))
    r = (0.7 * x_s.flatten(1).mean(1)).exp()
    weight = (2 * r / (1 + r)).reshape(-1, 1, 1, 1, 1)
    assert weight.std() > 0.01
    torch.testing.assert_close(gradients["js"], weight * gradients["rkl"], rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(terms.logs["divergence_weight"], weight.flatten(), rtol=1e-4, atol=0)
    assert judge.slope.grad is None  # nothing flows into the discriminator
    same = DMD((1000.0,), teacher_guidance=1.0).student_loss(networks, data, RNG, {})
    assert same.loss.item() == plain.student_loss(networks, data, RNG, {}).loss.item()  # rkl is DMD, bit for bit


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"diversity_weight": -1.0}, "diversity_weight, .* = -1.0, 30, 5.0: need a weight of 0"),
        ({"diversity_steps": 0}, "diversity_weight, .* = 0.0, 0, 5.0"),
        ({"diversity_weight": 0.05, "timesteps": (1000.0,)}, "diversity_weight = 0.05: the anchor is at the .* second"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        DMD(**fields)
