"""Distances and spreads of features: the Fréchet distance, and the diversity of a prompt's videos."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """|mu_a - mu_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), A and B the unbiased covariances, in fp64.

    Features [N, D] and [M, D]. Biased upwards for few samples: compare only equal counts.
    """
    a, b = features_a.double(), features_b.double()
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise ValueError("features hold NaN or infinities: no distance can be computed from them")
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"features must be [N, D] and [M, D] with N, M >= 2, got {tuple(a.shape)}, {tuple(b.shape)}")
    cov_a, cov_b = a.T.cov(), b.T.cov()
    # The trace of (A B)^1/2 through a symmetric product: eigh is stable where a general matrix root is not
    # (singular covariances); eigenvalues just below zero are rounding.
    values, vectors = torch.linalg.eigh(cov_a)
    root_a = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root_a @ cov_b @ root_a).clamp(min=0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(distance.item(), 0.0)


def diversity(features: Tensor, prompts: Sequence[str]) -> float | None:
    """Mean distance between the features [N, D] of two videos of one prompt; None if no prompt has two.

    It falls if a student makes the same video from every noise; compare it with an accurate teacher's value.
    """
    means = list(diversity_by_prompt(features, prompts).values())
    return float(torch.tensor(means, dtype=torch.float64).mean()) if means else None


def diversity_by_prompt(features: Tensor, prompts: Sequence[str]) -> dict[str, float]:
    """Mean distance between two videos of a prompt, for each prompt that has two."""
    rows: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(row)
    return {
        prompt: torch.pdist(features[several].double()).mean().item()
        for prompt, several in rows.items()
        if len(several) > 1
    }
