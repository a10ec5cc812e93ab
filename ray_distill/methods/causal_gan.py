"""Self-Forcing with DMD2's GAN term: the causal student's rollout against as many frames of the batch's clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ray_distill.methods.gan import GAN
from ray_distill.methods.self_forcing import SelfForcing


@dataclass(frozen=True)
class CausalGAN(GAN, SelfForcing):
    name: ClassVar[str] = "self_forcing_gan"
