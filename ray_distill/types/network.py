"""Networks behind their adapters: Denoiser, Discriminator, and their inputs and outputs.

Latents are ``[B, C, T, H, W]``; ``sigma`` is the noise level in [0, 1] with 1 = pure noise;
``x_t = (1 - sigma) x_0 + sigma eps`` and ``velocity = eps - x_0``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from ray_distill.types.roles import Role

Cond = Mapping[str, Tensor]
"""Conditioning by name, each tensor batch first. A family's fields (``models/spec.py``) define the names."""


@dataclass(frozen=True)
class Prediction:
    """Output of a Denoiser: the velocity ``eps - x_0``, shaped like ``x_t``.

    ``features`` are the hidden states that the call asked for, [B, tokens, D] each, in the network's own dtype: one a
    block, or for clips with sound two, the picture's and the sound's, which may differ in D.
    ``readings``, if the call asked for them, are outputs of the network's last layers with each feature in place of the
    last hidden state, [B, tokens, D'].
    """

    velocity: Tensor
    features: tuple[Tensor, ...] = ()
    readings: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Window:
    """The part of a long clip that a causal network sees: at most ``frames`` latent frames.

    The first ``sink`` of them are the clip's first, the others the latest, its own chunk included. They stand at the
    positions 0, 1, ... in this order, so that a clip may have any length.
    """

    frames: int
    sink: int = 0


@dataclass
class Cache:
    """Memory of a causal network for one rollout.

    ``frames`` counts the latent frames so far. ``chunks`` maps each chunk within the ``window``, by its first frame and
    its end, to the keys and values of every layer.
    """

    frames: int = 0
    chunks: dict[tuple[int, int], tuple[tuple[Tensor, Tensor], ...]] = field(default_factory=dict)
    window: Window | None = None


@dataclass(frozen=True, eq=False)
class History:
    """Teacher forcing: the past that chunks see, ``x`` [B, C, T, H, W] at the levels ``sigma`` [B, T], 0 for clean."""

    x: Tensor
    sigma: Tensor


class Denoiser(Protocol):
    """A network behind its adapter, which settles prediction type, layout and timestep scale."""

    def __call__(
        self,
        x_t: Tensor,
        sigma: Tensor,
        cond: Cond,
        *,
        chunks: Sequence[int] = (),
        cache: Cache | None = None,
        remember: bool = False,
        window: Window | None = None,
        history: History | None = None,
        features: Sequence[int] = (),
        read: bool = False,
    ) -> Prediction:
        """Predict the velocity of ``x_t`` [B, C, T, H, W] at ``sigma`` [B] in [0, 1], or [B, T] where frames differ.

        ``features`` are numbers of transformer blocks, from 0, whose outputs the prediction also holds; ``read`` asks
        for their readings. Gradient flows through both.

        A causal call limits the frames that a frame sees. ``chunks``, lengths that add up to T: its own chunk and the
        chunks before it within the ``window``; without ``chunks``, all T frames. ``cache``: also the chunks in the
        cache, within the cache's own window; x_t follows them. ``remember`` adds x_t to the cache afterwards, with its
        graph where autograd is on. ``history``: a chunk sees its own frames of x_t, and the frames of the history in
        place of the earlier ones of x_t, with gradient.
        """
        ...


class Discriminator(Protocol):
    """Small heads behind their adapter. ``Networks`` has them under a role that a method names in ``heads``."""

    @property
    def blocks(self) -> tuple[int, ...]:
        """Blocks whose ``features`` the heads read."""
        ...

    def __call__(self, features: Sequence[Tensor]) -> Tensor:
        """Logits [B, blocks, tokens] in fp32, high for real, of features [B, tokens, D], one a head. The tokens of a
        block's picture come before those of its sound."""
        ...


Networks = Mapping[Role, Denoiser]
