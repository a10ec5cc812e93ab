"""What bf16 does to DCM's difference of two predictions, measured on the digits teacher against the closed form."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from examples.moving_digits import DIGITS, DIRECTIONS, caption_of
from ray_distill.diffusion.consistency import Step, bf16_ratios, bf16_share, consistency_pair
from ray_distill.diffusion.flow import add_noise, euler_step
from ray_distill.diffusion.guidance import guided_velocity
from ray_distill.diffusion.timesteps import euler_timesteps
from ray_distill.methods.dcm_fine import DCMFine
from ray_distill.models.conditions import collate
from ray_distill.models.loading import load_transformer, own_parameters
from ray_distill.models.pipeline import Pipeline
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.models.wan.text import wan_text
from ray_distill.types import Cond

TEACHER = Path(__file__).parents[2] / "examples/digits_teacher"
SAMPLES = 16


def in_bf16(network: nn.Module) -> WanDenoiser:
    """As ``fill`` has it: every parameter, no buffer."""
    for owner, last, _, parameter in own_parameters(network):
        setattr(owner, last, nn.Parameter(parameter.bfloat16()))
    return WanDenoiser(network, torch.bfloat16)


def clips(teacher: WanDenoiser, cond: Cond, uncond: Cond) -> Tensor:
    """The teacher's own, of 24 guided steps."""
    x = torch.randn(SAMPLES, 16, 3, 6, 6)
    levels = [t / 1000 for t in (*euler_timesteps(24, 3.0), 0.0)]
    for level, below in zip(levels, levels[1:], strict=False):
        sigma = torch.full((SAMPLES,), level)
        x = euler_step(x, guided_velocity(teacher, x, sigma, cond, uncond, 1.5), sigma, torch.full((SAMPLES,), below))
    return x


@pytest.mark.slow
@torch.no_grad()
def test_the_closed_form_is_what_the_digits_teacher_shows() -> None:
    torch.manual_seed(0)
    encoder, fields = wan_text(TEACHER, 8), Pipeline("wan", TEACHER).fields(8)
    captions = [caption_of(DIGITS[i % 10], DIRECTIONS[i % 4]) for i in range(SAMPLES)]
    cond, uncond = (collate(encoder.encode(prompts), fields) for prompts in (captions, [""] * SAMPLES))
    exact, rough = WanDenoiser(load_transformer("wan", TEACHER)), in_bf16(load_transformer("wan", TEACHER))
    x_0 = clips(exact, cond, uncond)
    for method in (DCMFine(), DCMFine(multiphase=3)):
        phases, ratios = method.phases, bf16_ratios(method.phases, method.scale)
        for k in (17, 34):  # sigma 0.905 and 0.975
            e = int(phases.edge(torch.tensor(k)))
            step = Step(*(torch.full((SAMPLES,), phases.levels[i]) for i in (k + 1, k, e)))
            x_t = add_noise(x_0, torch.randn_like(x_0), step.sigma)
            pairs = [consistency_pair(n, n, n, x_t, step, cond, uncond, method.scale) for n in (exact, rough)]
            signal, seen = (prediction - aim for prediction, aim in pairs)
            ratio = ((seen - signal).norm() / signal.norm()).item()
            assert ratio == pytest.approx(ratios[k], rel=0.35), (k, method.multiphase)
            share = bf16_share(*pairs[1], x_t).mean().item()
            assert share == pytest.approx(ratio / math.hypot(1, ratio), rel=0.6)
            wrong = (seen.sign() != signal.sign()).float().mean().item()
            if method.multiphase == 1:
                assert 0.2 < wrong < 0.4
            else:
                assert wrong < 0.2
            print(
                f"{phases.levels[k + 1]:.4f} {method.multiphase}: {ratio:.3f} {ratios[k]:.3f} {share:.3f} {wrong:.3f}"
            )
