"""Self-Forcing with DMD2's GAN term: the causal rollout against real clips of equal length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ray_distill.methods.gan import GAN
from ray_distill.methods.self_forcing import SelfForcing


@dataclass(frozen=True)
class CausalGAN(GAN, SelfForcing):
    name: ClassVar[str] = "self_forcing_gan"
