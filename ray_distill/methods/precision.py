"""Warn of bf16's rounding where it is large against the differences that consistency methods compare."""

from __future__ import annotations

import math

from ray_distill.diffusion.consistency import CLEAR, Phases, bf16_ratios, bf16_rounding


def bf16_warnings(phases: Phases, scale: float, huber_c: float | None, remedy: str) -> list[str]:
    """Warnings of bf16's effect on a consistency loss whose teacher is guided by the standard ``scale``; ``huber_c``
    is None for the squared loss."""
    ratios, noise = bf16_ratios(phases, scale), max(bf16_rounding(phases))
    worst, warnings = max(ratios), []
    if worst > CLEAR:
        rough = sum(ratio > CLEAR for ratio in ratios)
        warnings.append(
            f"in bf16 the rounding of the two predictions is about {worst:.2f} of their difference at timestep "
            f"{1000 * phases.levels[1 + ratios.index(worst)]:.4g}, and above {CLEAR:g} at {rough} of {len(ratios)} "
            f"levels: there {math.atan(worst) / math.pi:.0%} of the elements push the wrong way. {remedy}, or set the "
            "roles' dtype to float32"
        )
    if huber_c is not None and huber_c <= noise:
        warnings.append(
            f"method.huber_c = {huber_c:g}: bf16 adds noise of about {noise:.2g} to the compared difference, and an "
            f"element above huber_c pushes with its sign alone. Use {2 * noise:.1g} or more, or dtype float32"
        )
    return warnings
