"""Frames that are given (image to video of Wan 2.2 5B): every loss and normaliser is over the generated ones."""

import math

import pytest
import torch

from ray_distill.diffusion.losses import dmd_gradient, surrogate
from ray_distill.diffusion.prefix import generated, generated_tokens
from ray_distill.methods import METHODS
from ray_distill.methods.dmd import DMD
from ray_distill.models.heads import FeatureDiscriminator, head_blocks, random_heads
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.rng import StatelessRng
from ray_distill.types import Prediction
from tests.tiny_wan import SHAPE, TEXT, tiny_wan
from tests.unit.toys import batch

RNG = StatelessRng(0)
RHO = 0.8


class TwoFrames:
    """The exact denoiser of two frames of mean 0, variance 1 and correlation ``RHO``, of which the first is given. A
    ``blind`` one takes the second for any."""

    def __init__(self, blind=False):
        self.mean, self.variance = (0.0, 1.0) if blind else (RHO, 1 - RHO**2)

    def __call__(self, x_t, sigma, cond):
        s = sigma.view(-1, 1, 1, 1, 1).to(x_t)
        first = cond["first"][:, :, None]
        mean, variance = self.mean * first, self.variance
        gain = (1 - s) * variance / ((1 - s) ** 2 * variance + s**2)
        x_0 = torch.cat([first, mean + gain * (x_t[:, :, 1:] - (1 - s) * mean)], dim=2)
        return Prediction((x_t - x_0) / s)


class Still:
    """Level 0.5, and no noise."""

    def noise(self, purpose, sample_ids, shape):
        return torch.zeros(len(sample_ids), *shape, dtype=torch.float64)

    def uniform(self, purpose, sample_ids):
        return torch.full((len(sample_ids),), 0.5, dtype=torch.float64)

    def control(self, purpose, high):
        return 0


@pytest.mark.parametrize(("blind", "g"), [(False, 0.0), (True, -0.6)])
def test_a_perfect_student_is_pulled_by_a_fake_score_that_does_not_see_the_image(blind, g):
    """Oracle 37. After a first frame of 1.5 the second is 1.2 on average: it stays there only if all see the image."""
    method = DMD(timesteps=(1000.0,), teacher_guidance=1.0, min_norm=1.0)
    x = torch.tensor([1.5, RHO * 1.5], dtype=torch.float64).view(1, 1, 2, 1, 1).requires_grad_()
    cond = {"first": torch.full((1, 1, 1, 1), 1.5, dtype=torch.float64)}
    networks = {"teacher": TwoFrames(), "fake_score": TwoFrames(blind)}
    terms = method.match(x, networks, batch([0], (1, 2, 1, 1), cond=cond, uncond=cond, prefix=1), Still(), {})
    (gradient,) = torch.autograd.grad(terms.loss, x)
    assert gradient.flatten().tolist() == pytest.approx([0.0, g], abs=1e-12) and gradient[0, 0, 0] == 0


def test_the_gradient_is_the_masked_one_and_the_normaliser_counts_generated_frames():
    """Oracle 37: g m / N_m, exactly 0 on the given frame; over all frames n would be 20/21 of this."""
    shape = (2, 3, 21, 4, 4)
    x, mu_fake, mu_real = (torch.randn(shape, dtype=torch.float64, generator=torch.manual_seed(i)) for i in range(3))
    x[:, :, 0] = mu_fake[:, :, 0] = mu_real[:, :, 0]
    g_all, n_all = dmd_gradient(x, mu_fake, mu_real)
    g, n = dmd_gradient(*(generated(each, 1) for each in (x, mu_fake, mu_real)))
    torch.testing.assert_close(n_all, n * 20 / 21, rtol=1e-15, atol=0)
    leaf, masked = x.clone().requires_grad_(), x.clone().requires_grad_()
    surrogate(generated(leaf, 1), g).backward()
    mask = torch.ones(1, 1, 21, 1, 1, dtype=torch.bool)
    mask[:, :, 0] = False
    surrogate(masked, g_all * 20 / 21, mask).backward()
    torch.testing.assert_close(leaf.grad, masked.grad, rtol=1e-13, atol=1e-17)
    torch.testing.assert_close(leaf.grad[:, :, 1:], g / (g[0].numel() * 2), rtol=1e-14, atol=0)
    assert not leaf.grad[:, :, 0].any()


def test_tokens_of_given_frames_are_left_out():
    hidden = torch.arange(12.0).view(1, 12, 1)
    assert generated_tokens(hidden, 3, 1).flatten().tolist() == list(range(4, 12))
    assert generated_tokens(hidden, 3, 0) is hidden and generated(hidden, 0) is hidden


def wans(method):
    """Networks of a method and a batch whose first latent frame is given."""
    roles = [role for role in method.roles if role not in method.heads]
    modules = {role: tiny_wan(seed) for seed, role in enumerate(roles)}
    networks = {role: WanDenoiser(module) for role, module in modules.items()}
    for role, heads in method.heads.items():
        blocks, widths = head_blocks(role, heads, "wan", modules["student"].config)
        networks[role] = FeatureDiscriminator(random_heads(len(blocks), widths, 0), torch.float32, blocks)
    ids = torch.arange(2)
    text, x_0 = RNG.noise("text", ids, TEXT), RNG.noise("x_0", ids, SHAPE)
    cond = {"text": text, "first": x_0[:, :, 0]}
    return networks, {"x_0": x_0, "cond": cond, "uncond": cond | {"text": 0 * text}}


MEANS = {
    "dmd": {"student_loss": 2 / 3, "fake_score_loss": 3 / 2},
    "self_forcing": {"student_loss": 2 / 3, "fake_score_loss": 3 / 2},
    "dmd_warm_start": {"warm_start_loss": 3 / 2},
    "self_forcing_warm_start": {"warm_start_loss": 3 / 2},
    "flow_matching": {"loss": 3 / 2},
    "lcm": {"student_loss": 3 / 2},
    "dcm_semantic": {"student_loss": 3 / 2},
    "teacher_forcing": {"loss": 3 / 2},
    "causal_consistency": {"student_loss": 3 / 2},
    "dmd_phased": {"high_student_loss": 2 / 3, "low_student_loss": 2 / 3, "low_fake_score_loss": 3 / 2},
}
"""The loss over generated frames, of three, over that of all: the given one adds 0 to each sum. DMD's own goes with the
square of 1 / n, which grows by 3 / 2."""
SETTINGS = {
    "lcm": {"loss": "l2"},
    "self_forcing": {"num_frame_per_block": 1},
    "teacher_forcing": {"num_frame_per_block": 1},
    "causal_consistency": {"num_frame_per_block": 1, "loss": "l2"},
    "self_forcing_warm_start": {"num_frame_per_block": 1},
}


@pytest.mark.parametrize(("name", "loss"), [(name, loss) for name, losses in MEANS.items() for loss in losses])
def test_means_are_over_generated_frames(name, loss):
    method = METHODS[name](**SETTINGS.get(name, {}))
    networks, data = wans(method)
    descend = getattr(method, loss)
    with torch.no_grad():
        seen, every = (
            descend(networks, batch(range(2), SHAPE, prefix=given, **data), RNG, {}).loss.item() for given in (1, 0)
        )
    assert seen == pytest.approx(MEANS[name][loss] * every, rel=1e-4) and every > 0


def test_a_phase_that_ends_above_the_data_leaves_given_frames_out():
    """There the given frame is noise in x_s, and its target no velocity to the image."""
    method = METHODS["dmd_phased"]()
    networks, data = wans(method)
    see = networks["fake_score"]

    def off(x_t, sigma, cond):
        v = see(x_t, sigma, cond).velocity
        return Prediction(torch.cat([v[:, :, :1] + 7, v[:, :, 1:]], dim=2))

    with torch.no_grad():
        for prefix, same in ((1, True), (0, False)):
            rows = batch(range(2), SHAPE, prefix=prefix, **data)
            one, other = (
                method.high_fake_score_loss(networks | {"fake_score": fake}, rows, RNG, {}).loss for fake in (see, off)
            )
            assert torch.equal(one, other) == same


@pytest.mark.parametrize("name", ["dmd_gan", "self_forcing_gan", "dcm_fine"])
def test_the_discriminator_sees_tokens_of_generated_frames(name):
    method = METHODS[name](**SETTINGS.get(name.removesuffix("_gan"), {}))
    networks, data = wans(method)
    shown, judge = [], networks["discriminator"]

    def look(*features):
        shown.extend(x.shape[1] for x in features)
        return judge.network(*features)

    networks["discriminator"] = FeatureDiscriminator(look, torch.float32, judge.blocks)
    rows = batch(range(2), SHAPE, prefix=1, **data)
    for descend in (method.student_loss, method.discriminator_loss):
        assert math.isfinite(descend(networks, rows, RNG, {}).loss.item())
    assert set(shown) == {2 * 4}  # two generated frames of 2 x 2 tokens


def test_a_rollout_begins_with_the_given_frame():
    for name in ("dmd", "self_forcing"):
        method = METHODS[name](**SETTINGS.get(name, {}))
        networks, data = wans(method)
        x = method.roll_out(networks, batch(range(2), SHAPE, prefix=1, **data), RNG, "student", grad=False)
        torch.testing.assert_close(x[:, :, 0], data["cond"]["first"], atol=1e-5, rtol=0)
