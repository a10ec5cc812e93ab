"""Consistency distillation: levels in phases, the consistency function, and the pair of compared predictions.

Consistency models (arXiv 2303.01469), latent ones (2310.04378) and phased ones (2405.18407).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ray_distill.diffusion.flow import euler_step
from ray_distill.diffusion.guidance import guided_velocity
from ray_distill.diffusion.timesteps import shift_sigma
from ray_distill.types import Cond, Denoiser

BF16_ERROR = 0.01
"""Relative rms error of a transformer's velocity in bf16: 0.009 to 0.010 on the digits teacher."""
GUIDANCE_GAP = 0.74
"""rms of c - u over rms of a velocity at high noise, for the same teacher."""
CURVATURE = 2.0
"""rms of the velocity's change along the ODE per unit of sigma, over rms of a velocity at high noise, for the same
teacher."""
CLEAR = 0.2
"""Largest clear ratio of rounding to signal: atan(0.2) / pi = 6 % of elements push the wrong way."""


@dataclass(frozen=True)
class Step:
    """A step of the solver, each [B]: from ``sigma`` down to ``sigma_prev``, in a phase that ends at ``sigma_end``."""

    sigma: Tensor
    sigma_prev: Tensor
    sigma_end: Tensor


@dataclass(frozen=True)
class Phases:
    """The solver's ``levels`` sigma_0 < ... < sigma_n. ``edges`` number the levels at which phases end; the first is
    0."""

    levels: tuple[float, ...]
    edges: tuple[int, ...] = (0,)

    def draw(self, u: Tensor) -> Step:
        """One of the n steps, chosen by ``u`` [B], uniform in [0, 1)."""
        k = self.index(u)
        levels = u.new_tensor(self.levels)
        return Step(levels[k + 1], levels[k], levels[self.edge(k)])

    def index(self, u: Tensor) -> Tensor:
        """k [B] in 0 .. n - 1: the step from sigma_{k+1} to sigma_k."""
        n = len(self.levels) - 1
        return (u * n).long().clamp_max(n - 1)  # in fp32 the largest u times n may round up to n

    def edge(self, k: Tensor) -> Tensor:
        """e(k) = max {e in edges: e <= k}."""
        edges = torch.tensor(self.edges, device=k.device)
        return edges[torch.bucketize(k, edges, right=True) - 1]

    def within(self, k: Tensor, u: Tensor) -> Tensor:
        """sigma [B]: a level of step k's phase other than its highest, chosen by ``u`` [B], uniform in [0, 1)."""
        edges = torch.tensor([*self.edges, len(self.levels) - 1], device=k.device)
        phase = torch.bucketize(k, edges[:-1], right=True)
        low, high = edges[phase - 1], edges[phase]
        return u.new_tensor(self.levels)[(low + (u * (high - low)).long()).clamp_max(high - 1)]

    def timesteps(self, count: int) -> tuple[float, ...]:
        """``count`` timesteps of levels above the lowest, evenly spaced from the top down; if ``count`` is the number
        of even phases, they are the tops of the phases. ValueError if there are fewer levels."""
        n = len(self.levels) - 1
        if not 1 <= count <= n:
            raise ValueError(f"sampling_steps: {count} steps do not fit on a grid of {n} levels; use 1 to {n} there")
        return tuple(1000 * self.levels[(count - i) * n // count] for i in range(count))


def solver_phases(steps: int, shift: float, low: float, high: float, multiphase: int | tuple[float, ...] = 1) -> Phases:
    """Phases of the Euler grid S_shift(k / steps) between the raw levels ``low`` and ``high``, at which it halts.
    ``multiphase`` is a number of phases, or the raw levels other than ``low`` at which phases end; the grid also halts
    there. ValueError if these levels are not in between, or if there are more phases than steps."""
    ends = () if isinstance(multiphase, int) else multiphase
    if not all(low < edge < high for edge in ends):
        raise ValueError(f"multiphase = {list(ends)}: give raw levels between {low:g} and {high:g}")
    raw = sorted({low, high, *ends, *(k / steps for k in range(1, steps) if low < k / steps < high)})
    edges = even_edges(len(raw) - 1, multiphase) if isinstance(multiphase, int) else (0, *map(raw.index, sorted(ends)))
    return Phases(tuple(shift_sigma(level, shift) for level in raw), edges)


def even_edges(steps: int, phases: int) -> tuple[int, ...]:
    """Edges floor(linspace(0, n, P, endpoint=False)) of n steps in P phases; ValueError unless each phase has a
    step."""
    if not 1 <= phases <= steps:
        raise ValueError(
            f"multiphase = {phases}: a phase has at least one of the {steps} solver steps; use 1 to {steps}"
        )
    return tuple(i * steps // phases for i in range(phases))


def consistency_function(denoiser: Denoiser, x_t: Tensor, sigma: Tensor, cond: Cond, sigma_end: Tensor) -> Tensor:
    """f(x_t, sigma) = c_skip x_t + c_out v with c_skip = 1 and c_out = sigma_end - sigma, the end of the phase.

    At sigma = sigma_end it is the identity, bit for bit; with sigma_end = 0 it is the x_0-prediction.
    """
    return euler_step(x_t, denoiser(x_t, sigma, cond).velocity, sigma, sigma_end)


def consistency_pair(
    student: Denoiser,
    target: Denoiser,
    teacher: Denoiser,
    x_t: Tensor,
    step: Step,
    cond: Cond,
    uncond: Cond,
    scale: float | Tensor,
) -> tuple[Tensor, Tensor]:
    """(f_student(x_t, sigma), sg f_target(x_prev, sigma_prev)), where the teacher's Euler step, guided by the standard
    ``scale`` (as of ``guided_velocity``), takes ``x_t`` to x_prev. Gradient flows into the first alone."""
    prediction = consistency_function(student, x_t, step.sigma, cond, step.sigma_end)
    with torch.no_grad():
        v = guided_velocity(teacher, x_t, step.sigma, cond, uncond, scale)
        x_prev = euler_step(x_t, v, step.sigma, step.sigma_prev)
        aim = consistency_function(target, x_prev, step.sigma_prev, cond, step.sigma_end)
    return prediction, aim


def bf16_rounding(phases: Phases) -> tuple[float, ...]:
    """rms of bf16's error in the difference of the two predictions at each step, for velocities of rms 1: sqrt(2)
    BF16_ERROR (sigma - sigma_e)."""
    ends = phases.edge(torch.arange(len(phases.levels) - 1)).tolist()
    return tuple(
        math.sqrt(2) * BF16_ERROR * (sigma - phases.levels[e]) for sigma, e in zip(phases.levels[1:], ends, strict=True)
    )


def bf16_ratios(phases: Phases, scale: float) -> tuple[float, ...]:
    """:func:`bf16_rounding` over the rms of the difference itself, for a student that still equals the teacher: with h
    = sigma - sigma_prev, h hypot(CURVATURE (sigma_prev - sigma_e), GUIDANCE_GAP (w - 1)) for the standard scale w.

    An estimate. The ratio is 0 at the last step of a phase, where the teacher's step itself is the target.
    """
    ends = phases.edge(torch.arange(len(phases.levels) - 1)).tolist()
    ratios = []
    for k, (noise, e) in enumerate(zip(bf16_rounding(phases), ends, strict=True)):
        h, way = phases.levels[k + 1] - phases.levels[k], phases.levels[k] - phases.levels[e]
        ratios.append(noise / (h * math.hypot(CURVATURE * way, GUIDANCE_GAP * (scale - 1))) if k > e else 0.0)
    return tuple(ratios)


def bf16_share(prediction: Tensor, aim: Tensor, x_t: Tensor) -> Tensor:
    """[B]: rms of bf16's rounding over rms of prediction - aim. If networks compute in bf16, that difference contains
    the rounding, and a ratio r of rounding to signal shows as r / sqrt(1 + r^2)."""
    way, difference = (
        (a - b).flatten(1).float().square().mean(1).sqrt() for a, b in ((prediction, x_t), (prediction, aim))
    )
    return math.sqrt(2) * BF16_ERROR * way / difference.clamp_min(torch.finfo(torch.float32).tiny)
