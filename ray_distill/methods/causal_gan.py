"""Self-Forcing with DMD2's GAN term: causal rollouts against real clips of equal length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ray_distill.methods.gan import GAN
from ray_distill.methods.self_forcing import SelfForcing


@dataclass(frozen=True)
class CausalGAN(GAN, SelfForcing):
    name: ClassVar[str] = "self_forcing_gan"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rollout_frames is not None:
            raise ValueError(
                f"rollout_frames = {self.rollout_frames}: the discriminator compares with clips, which begin with a "
                "picture, and a later part of a rollout does not; remove rollout_frames, or use self_forcing"
            )
