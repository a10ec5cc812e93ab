"""Flow matching (Lipman et al., arXiv 2210.02747; rectified flow, arXiv 2209.03003): training of a teacher.

1. sigma ~ S_shift(U(0, 1)), eps ~ N(0, I), x_t = (1 - sigma) x_0 + sigma eps
2. drop the prompt with probability ``prompt_dropout`` (for classifier-free guidance)
3. descend mean (v(x_t, sigma, c) - (eps - x_0))^2
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ray_distill.diffusion.flow import add_noise, velocity
from ray_distill.diffusion.losses import mse
from ray_distill.diffusion.prefix import generated
from ray_distill.diffusion.timesteps import euler_timesteps, shift_sigma
from ray_distill.methods.modalities import Modalities
from ray_distill.types import (
    STUDENT,
    Batch,
    Cond,
    Experts,
    Heads,
    LossTerms,
    Need,
    Networks,
    Rng,
    Role,
    Sampler,
    Shared,
    Stage,
    Trajectories,
    Update,
)


@dataclass(frozen=True)
class FlowMatching(Modalities):
    shift: float = 3.0
    """Shift of the levels, hence of the sampler's."""
    prompt_dropout: float = 0.1
    """Share of samples with the negative prompt in place of their own, for guidance."""
    sampling_steps: int = 32
    """Steps of the sampler."""
    sampling_guidance: float = 2.0
    """Guidance of the sampler, s in u + s (c - u)."""
    sampling_audio_guidance: float | None = None
    """Guidance of sound in the sampler, for clips with sound; null: sampling_guidance."""

    name: ClassVar[str] = "flow_matching"
    roles: ClassVar[Mapping[Role, Need]] = {STUDENT: "trained"}
    heads: ClassVar[Mapping[Role, Heads]] = {}
    exits: ClassVar[Mapping[Role, int]] = {}
    beyond_clips: ClassVar[bool] = False
    streamed: ClassVar[None] = None
    uses_latents: ClassVar[bool] = True
    prepared: ClassVar[Trajectories | None] = None
    period: ClassVar[tuple[int, int]] = 0, 1
    stages: ClassVar[tuple[Stage, ...]] = ()
    teachers: ClassVar[Experts | None] = None

    def __post_init__(self) -> None:
        self.check_modalities()
        check_sampling(self.shift, self.sampling_steps, self.prompt_dropout)

    def warnings(self, bf16: bool) -> list[str]:
        return []

    def updates(self, step: int) -> tuple[Update, ...]:
        return (Update(STUDENT, self.loss),)

    def describe(self) -> str:
        return (
            f"sampled with {self.sampling_steps} Euler steps at guidance u + s (c - u), s = {self.sampling_guidance:g}"
        )

    def sampler(self) -> Sampler:
        steps, audio = euler_timesteps(self.sampling_steps, self.shift), self.sampling_audio_guidance
        return Sampler(steps, "ode", self.sampling_guidance, audio_guidance_scale=audio)

    def loss(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        assert batch.x_0 is not None
        eps = rng.noise("eps", batch.sample_ids, batch.latent_shape)
        sigma = shift_sigma(rng.uniform("sigma", batch.sample_ids), self.shift)
        dropped = rng.uniform("prompt_dropout", batch.sample_ids) < self.prompt_dropout
        cond = drop(batch.cond, batch.uncond, dropped)
        v = networks[STUDENT](add_noise(batch.x_0, eps, sigma), sigma, cond).velocity
        aim = generated(velocity(batch.x_0, eps), batch.prefix)
        loss = self.weighed(mse, batch, generated(v, batch.prefix), aim)
        return LossTerms(loss, {"flow_matching_loss": loss.detach()})


def drop(cond: Cond, uncond: Cond, dropped: Tensor) -> Cond:
    """``cond`` with the samples of ``dropped`` [B] replaced by ``uncond``."""
    return {k: torch.where(dropped.reshape(-1, *[1] * (c.ndim - 1)), uncond[k], c) for k, c in cond.items()}


def check_sampling(shift: float, sampling_steps: int, prompt_dropout: float) -> None:
    """ValueError unless ``shift`` > 0, ``sampling_steps`` >= 1 and ``prompt_dropout`` is in [0, 1]."""
    if shift <= 0 or sampling_steps < 1 or not 0 <= prompt_dropout <= 1:
        raise ValueError(
            f"shift, sampling_steps, prompt_dropout = {shift}, {sampling_steps}, {prompt_dropout}: "
            "need shift > 0, sampling_steps >= 1 and prompt_dropout in [0, 1]"
        )
