"""DMD over many updates: floors, fixed points, overshoot, and a student that becomes its teacher."""

import pytest
import torch
from torch import nn

from ray_distill.methods import DMD
from ray_distill.rng import StatelessRng
from ray_distill.types import Prediction
from tests.unit.toys import Gaussian, Mixture, batch

RNG = StatelessRng(0)


class Linear(nn.Module):
    """The linear student: x_0 = mean + std x_1 from pure noise."""

    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = nn.Parameter(torch.tensor(mean)), nn.Parameter(torch.tensor(std))

    def forward(self, x_t, sigma, cond):
        return Prediction(x_t - (self.mean + self.std * x_t))


class Student(nn.Module):
    """Elementwise, from pure noise: x_0 = 0.3 x_1 + a network that says 0 at first."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 32), nn.SiLU(), nn.Linear(32, 1))
        nn.init.zeros_(self.net[2].weight)
        nn.init.zeros_(self.net[2].bias)

    def forward(self, x_t, sigma, cond):
        return Prediction(x_t - (0.3 * x_t + self.net(x_t[..., None])[..., 0]))


class FakeScore(nn.Module):
    """A fake score that can be right: the Gaussian denoiser with a mean and a spread that it learns."""

    def __init__(self):
        super().__init__()
        self.mean, self.log_std = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.tensor(0.3).log())

    def forward(self, x_t, sigma, cond):
        return Gaussian(self.mean, self.log_std.exp())(x_t, sigma, cond)


class Quick:
    """An Rng of whole batches: thousands of small updates would spend their time on a stream for each sample."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def noise(self, purpose, sample_ids, shape):
        return torch.randn(len(sample_ids), *shape, generator=self.generator)

    def uniform(self, purpose, sample_ids):
        return torch.rand(len(sample_ids), generator=self.generator)

    def control(self, purpose, high):
        return 0


def at_level(sigma, **kwargs):
    """One-step DMD that scores at one noise level (fp32: the window has a width of 1e-7)."""
    return DMD((1000.0,), score_min=sigma - 1e-7, score_max=sigma, teacher_guidance=1.0, **kwargs)


@pytest.mark.parametrize(
    ("sigma", "target", "floor"),
    [
        (0.5, "velocity", 0.8),
        (0.5, "x_0", 0.2),
        (0.5, "eps", 0.2),
        (0.1, "velocity", 1.17647),
        (0.9, "velocity", 0.307692),
    ],
)
def test_floor_of_the_fake_score(sigma, target, floor):
    """Oracle 7: at its optimum the loss is at its floor, flow s^2 / D, and any other fake score is above."""
    data, method = batch(range(4), (1, 1, 250, 500)), at_level(sigma, fake_score_target=target)
    networks = {"student": Linear(2.0, 0.5), "fake_score": Gaussian(2.0, 0.5)}
    loss = method.fake_score_loss(networks, data, RNG, {}).loss
    assert loss.item() == pytest.approx(floor, abs=4 * floor * (2 / 500_000) ** 0.5)
    for wrong in (Gaussian(2.1, 0.5), Gaussian(2.0, 0.6)):
        assert method.fake_score_loss(networks | {"fake_score": wrong}, data, RNG, {}).loss > loss


def test_a_student_at_its_optimum_stays_there():
    """Oracle 8: with both scores right E[g] = 0 within 4 standard errors, and a step moves less than lr x 4 SE."""
    student, n = Linear(2.0, 0.5), 40_000
    networks = {"student": student, "fake_score": Gaussian(2.0, 0.5), "teacher": Gaussian(2.0, 0.5)}
    data, method = batch(range(4), (1, 1, 100, 100)), DMD((1000.0,), teacher_guidance=1.0)
    method.student_loss(networks, data, RNG, {}).loss.backward()
    assert student.mean.grad.item() == 0.0  # here g itself is 0

    class Noisy:
        """A fake score that has the right mean and an error of its own in each element."""

        def __call__(self, x_t, sigma, cond):
            error = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(1))
            return Prediction(Gaussian(2.0, 0.5)(x_t, sigma, cond).velocity + error)

    student.zero_grad()
    terms = at_level(0.5, min_norm=1000.0).student_loss(networks | {"fake_score": Noisy()}, data, RNG, {})
    terms.loss.backward()
    standard_error = 0.5 / 1000 / n**0.5  # of the mean of g = -sigma error / n
    assert 0 < abs(student.mean.grad.item()) < 4 * standard_error
    before, lr = student.mean.item(), 100.0
    torch.optim.SGD([student.mean], lr=lr).step()
    assert abs(student.mean.item() - before) < lr * 4 * standard_error + 1e-6


@pytest.mark.parametrize(
    ("interval", "rate", "steps", "overshoots"),
    [(1, 0.5, 120, True), (5, 0.5, 200, True), (1, 0.05, 200, True), (5, 0.1, 600, False), (5, 0.05, 600, False)],
)
def test_a_slow_fake_score_makes_the_student_overshoot(interval, rate, steps, overshoots):
    """Oracle 6: teacher at 2, a fake score that tracks the student at kappa = 0.05 a step, and the student's own
    gamma = rate x 0.651 / interval. Past 1.05 x 2 iff kappa is below 4 gamma by a factor of 2 or more."""
    method = DMD((1000.0,), student_interval=interval, teacher_guidance=1.0, min_norm=1000.0)
    student, fake_mean, rng, most = Linear(0.0, 0.5), torch.tensor(0.0), Quick(1), 0.0
    networks = {"student": student, "fake_score": Gaussian(fake_mean), "teacher": Gaussian(2.0)}
    optimizer = torch.optim.SGD([student.mean], lr=1000 * rate)  # min_norm is a constant normaliser of 1000
    data = batch(range(16), (1, 1, 1, 1))
    for step in range(steps):
        for update in method.updates(step):
            if update.role == "student":
                optimizer.zero_grad()
                update.loss(networks, data, rng, {}).loss.backward()
                optimizer.step()
            else:
                fake_mean += 0.05 * (student.mean.item() - fake_mean)
        most = max(most, student.mean.item())
    kappa, gamma = 0.05, rate * 0.651 / interval
    assert overshoots == (4 * gamma > 2 * kappa)
    assert (most > 1.05 * 2.0) == overshoots
    if (interval, rate) == (5, 0.1):
        assert student.mean.item() == pytest.approx(2.0, abs=0.01)


def train(networks, steps, rates):
    """All through updates(), 5 fake-score updates to 1 of the student; Adam with beta_1 = 0, rates that fall to 0."""
    optimizers = {
        role: torch.optim.Adam(networks[role].parameters(), lr=rate, betas=(0.0, 0.999)) for role, rate in rates.items()
    }
    method, rng, data = DMD((1000.0,), teacher_guidance=1.0), Quick(0), batch(range(16), (1, 1, 4, 4))
    for step in range(steps):
        for update in method.updates(step):
            role = update.role
            optimizers[role].param_groups[0]["lr"] = rates[role] * (1 - step / steps)
            optimizers[role].zero_grad()
            update.loss(networks, data, rng, {}).loss.backward()
            optimizers[role].step()
    z = torch.randn(1, 1, 1, 1, 20_000, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return z - networks["student"](z, torch.ones(1), {}).velocity


def test_a_student_becomes_its_teacher():
    """Oracle 20, its bounds: from N(0, .3^2) to N(2, .5^2). Falling rates, and a fake score that can be right, make
    1000 steps enough: five seeds ended within 0.008 of the mean and 0.005 of the spread."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = {"student": Student(), "fake_score": FakeScore(), "teacher": Gaussian(2.0, 0.5)}
    x = train(networks, 1000, {"student": 4e-3, "fake_score": 2e-2})
    assert x.mean().item() == pytest.approx(2.0, abs=0.08)
    assert x.std().item() == pytest.approx(0.5, abs=0.05)


def test_reverse_kl_seeks_modes():
    """Oracle 20's failure, which is expected: a student that starts at one of two modes never sees the other."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student, fake_score = Student(), FakeScore()
    torch.nn.init.constant_(student.net[2].bias, 2.9)
    torch.nn.init.constant_(fake_score.mean, 2.9)
    teacher = Mixture((-3.0, 3.0), 0.3)
    networks = {"student": student, "fake_score": fake_score, "teacher": teacher}
    x = train(networks, 500, {"student": 4e-3, "fake_score": 2e-2})
    assert (x > 0).all() and 2.5 < x.mean() < 3.1 and x.std() < 0.6
