"""Values of one training step: Batch, Rollout, Rng, LossTerms, Update, Pull, and a worker's Placement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from ray_distill.types.network import Cache, Cond, Networks
from ray_distill.types.roles import Role


@dataclass
class Rollout:
    """A causal student's rollout of one micro-batch, which continues from step to step.

    ``frames`` counts the latent frames so far. ``x`` [B, C, T, H, W] are the latest of them, None before the first and
    after the last; the ``cache`` has the visible chunks except the last. ``cond`` and ``uncond`` are the conditioning
    of the batch that began it. Losses leave out the first ``prefix`` frames of the last window.
    """

    frames: int = 0
    x: Tensor | None = None
    cache: Cache = field(default_factory=Cache)
    cond: Cond = field(default_factory=dict)
    uncond: Cond = field(default_factory=dict)
    prefix: int = 0


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one rank.

    ``sample_ids`` [B] int64 number the samples of the whole run (step * global batch + position), whatever
    the world size; they, and never the rank, seed each sample's noise. ``x_0`` is None for data-free methods.
    ``states`` [B, K, C, T, H, W] lie on the teacher's trajectory to x_0, if a preparation made one.
    The first ``prefix`` places along T (latent frames, or the tokens of one in packed latents) are conditions too:
    networks return them unchanged, and losses leave them out. ``modalities`` are the places along T of each packed
    modality ("video", "audio"), the prefix included; {}: a picture alone.
    Losses that continue the ``rollout`` of earlier steps change it.
    """

    sample_ids: Tensor
    latent_shape: tuple[int, int, int, int]
    cond: Cond
    uncond: Cond
    x_0: Tensor | None = None
    states: Tensor | None = None
    prefix: int = 0
    modalities: Mapping[str, slice] = field(default_factory=dict)
    rollout: Rollout | None = None


class Rng(Protocol):
    """Randomness without state: every draw is a pure function of (seed, purpose, step, sample or nothing)."""

    def noise(self, purpose: str, sample_ids: Tensor, shape: Sequence[int]) -> Tensor:
        """Standard normal ``[B, *shape]`` fp32 on the device of ``sample_ids``, one stream per sample."""
        ...

    def uniform(self, purpose: str, sample_ids: Tensor) -> Tensor:
        """Uniform ``[B]`` in [0, 1), one stream per sample."""
        ...

    def control(self, purpose: str, high: int) -> int:
        """An integer in [0, high), equal on all ranks, for draws that change the number of forwards."""
        ...


@dataclass(frozen=True)
class LossTerms:
    """A scalar loss (mean over the micro-batch), and values to log by name: detached, a scalar or one value per sample.

    Names are the same on all ranks. A row holds the mean over the global batch, or the smallest, the median or the sum
    where the name ends in ``_min``, ``_median`` or ``_count``. Under a name with a slash NaN means that the value does
    not concern this sample.
    """

    loss: Tensor
    logs: Mapping[str, Tensor] = field(default_factory=dict)


Shared = MutableMapping[str, Tensor]
"""Tensors that an earlier update of the same step leaves for a later one (a rollout), per micro-batch."""


@dataclass(frozen=True)
class Pull:
    """``role`` <- decay ``role`` + (1 - decay) ``towards``, tensor by tensor, after each update of ``towards``. ``key``
    is the key of the method's configuration that sets ``decay``."""

    role: Role
    towards: Role
    decay: float
    key: str


@dataclass(frozen=True)
class Update:
    """One descent: ``loss`` moves ``role``; every other role is frozen during its backward. ``pulls`` come after."""

    role: Role
    loss: Callable[[Networks, Batch, Rng, Shared], LossTerms]
    pulls: tuple[Pull, ...] = ()


@dataclass(frozen=True)
class Placement:
    """Position of a worker among ``world``: every ``seq_size`` neighbours share the tokens of the same clips.

    Batches and noise depend on ``data_rank``; the one process that ``leads`` reports for all.
    """

    rank: int
    world: int
    seq_size: int = 1

    @property
    def data_rank(self) -> int:
        return self.rank // self.seq_size

    @property
    def data_size(self) -> int:
        return self.world // self.seq_size

    @property
    def leads(self) -> bool:
        return self.rank == 0
