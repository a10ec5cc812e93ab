"""Sampling recipes: Sampler, and the chunks and experts that it may have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ray_distill.types.network import Window
from ray_distill.types.roles import Role


@dataclass(frozen=True)
class Chunks:
    """The cut of a clip for a causal student: it denoises ``frames`` latent frames together.

    With ``independent_first`` the first frame is a chunk of its own. The cache keeps a finished chunk at
    ``context_timestep`` = 1000 sigma, 0 for clean. Without a ``window`` a chunk sees all chunks before it. The
    first chunk uses ``first_timesteps`` if they are not empty.
    """

    frames: int
    independent_first: bool = False
    context_timestep: float = 0.0
    window: Window | None = None
    first_timesteps: tuple[float, ...] = ()


@dataclass(frozen=True)
class Experts:
    """Two networks share the noise levels: ``high`` predicts at timesteps from ``boundary`` up, ``low`` below it.

    ``low_guidance_scale`` is the guidance of ``low``; with None both use the sampler's."""

    high: Role
    low: Role
    boundary: float
    low_guidance_scale: float | None = None


@dataclass(frozen=True)
class Sampler:
    """A sampling recipe: ``timesteps`` = 1000 sigma, strictly decreasing in (0, 1000]; the last step goes to 0.

    ``kind``: "sde" re-noises x_0 with fresh noise at each step, "ode" is plain Euler.
    ``guidance_scale`` s means u + s (c - u), so 1 is off and costs one evaluation per step instead of two;
    ``audio_guidance_scale`` is that of sound in clips with sound, and None means the same.
    ``chunks`` is for causal networks, which make a clip chunk by chunk. Without ``experts`` one role predicts at all
    steps.
    """

    timesteps: tuple[float, ...]
    kind: Literal["sde", "ode"]
    guidance_scale: float = 1.0
    chunks: Chunks | None = None
    experts: Experts | None = None
    audio_guidance_scale: float | None = None

    @property
    def nfe(self) -> int:
        """Network evaluations per video. For a causal network: forwards per frame after the first chunk, including the
        one that fills the cache."""
        remembered = () if self.chunks is None else (self.chunks.context_timestep,)
        guided = self.audio_guidance_scale not in (None, 1.0)
        return sum(2 if guided or self.scale(t) != 1.0 else 1 for t in (*self.timesteps, *remembered))

    def scale(self, timestep: float) -> float:
        """The guidance scale of the step at ``timestep``."""
        experts = self.experts
        if experts is None or experts.low_guidance_scale is None or timestep >= experts.boundary:
            return self.guidance_scale
        return experts.low_guidance_scale
