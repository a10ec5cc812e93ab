"""Noise levels: the shift, step lists, and the window of score timesteps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:  # processes without torch read step lists
    from torch import Tensor

U = TypeVar("U", float, "Tensor")


def shift_sigma(u: U, shift: float) -> U:
    """S_s(u) = s u / (1 + (s - 1) u): monotone on [0, 1], S(0) = 0, S(1) = 1, S_a(S_b(u)) = S_ab(u)."""
    return shift * u / (1 + (shift - 1) * u)


def euler_timesteps(steps: int, shift: float = 1.0) -> tuple[float, ...]:
    """``steps`` shifted timesteps of a uniform grid from 1000 down; the last step leads to 0."""
    return tuple(1000 * shift_sigma(1 - i / steps, shift) for i in range(steps))


def check_timesteps(timesteps: Sequence[float], key: str = "timesteps") -> tuple[float, ...]:
    """The step list as floats; ValueError unless strictly decreasing in (0, 1000]."""
    steps = tuple(float(t) for t in timesteps)
    decreasing = all(a > b for a, b in zip(steps, steps[1:], strict=False))
    if not steps or not decreasing or steps[0] > 1000 or steps[-1] <= 0:
        raise ValueError(
            f"{key} = {list(timesteps)}: give one or more strictly decreasing timesteps in (0, 1000], "
            "for example 1000,757,522"
        )
    return steps


def warp(timesteps: Sequence[float], shift: float) -> tuple[float, ...]:
    """Raw indices in [0, 1000] as timesteps: 1000 S_shift(i / 1000) (Self-Forcing's ``warp_denoising_step``)."""
    return tuple(1000 * shift_sigma(i / 1000, shift) for i in timesteps)


def score_window(timesteps: Sequence[float], exit_step: int, shift: float) -> tuple[int, int]:
    """(to, from): raw indices, at the score's own ``shift``, of the step after ``exit_step`` (0 after the last) and of
    ``exit_step`` itself. A raw draw in [to, 1000) leaves out levels whose noise the next step adds again."""
    raw = [round(1000 * shift_sigma(t / 1000, 1 / shift)) for t in (*timesteps, 0.0)]
    return raw[exit_step + 1], raw[exit_step]


def score_sigma(u: Tensor, shift: float, low: float, high: float, window: tuple[int, int] = (0, 1000)) -> Tensor:
    """Noise level [B] at which distribution matching compares: uniform ``u`` [B] in [0, 1) -> raw index i in ``window``
    -> S_shift(i / 1000), then the clamp (Self-Forcing).

    The order matters: at shift 8 the clamp to [0.02, 0.98] puts 14 % of the mass on the upper edge.
    """
    raw = window[0] + (u * (window[1] - window[0])).floor()
    return shift_sigma(raw / 1000, shift).clamp(low, high)
