"""Distances and spreads of features: Fréchet distance, KID, principal components, and the diversity of a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    cov_a, cov_b = (torch.atleast_2d(features.T.cov()) for features in (a, b))
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


def kid(features_a: Tensor, features_b: Tensor, paired: bool = False) -> float:
    """Kernel inception distance (arXiv 1801.01401) of features [N, D] and [M, D] in fp64: the unbiased squared maximum
    mean discrepancy of the kernel (x . y / D + 1)^3. It may be negative, and is so half the time for equal laws.

    With ``paired``, row i of both has the same prompt, and N = M: k(a_i, b_i) is left out, as k(a_i, a_i) is, since
    features of one prompt are alike without the two laws being equal.
    """
    a, b = features_a.double(), features_b.double()
    if min(len(a), len(b)) < 2 or a.shape[1:] != b.shape[1:] or (paired and len(a) != len(b)):
        raise ValueError(f"features must be [N, D] and [M, D] with N, M >= 2, got {tuple(a.shape)}, {tuple(b.shape)}")

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def without_diagonal(values: Tensor) -> Tensor:
        return (values.sum() - values.trace()) / (len(values) * (len(values) - 1))

    across = kernel(a, b)
    between = without_diagonal(across) if paired else across.mean()
    return float(without_diagonal(kernel(a, a)) + without_diagonal(kernel(b, b)) - 2 * between)


def principal(features: Tensor, most: int = 64) -> Callable[[Tensor], Tensor]:
    """The projection of features [*, D] on the leading components of ``features`` [N, D], at most ``most`` and N // 4
    of them, in fp64."""
    centre = features.double().mean(0)
    _, _, rows = torch.linalg.svd(features.double() - centre, full_matrices=False)
    basis = rows[: max(1, min(most, len(features) // 4))].T
    return lambda values: (values.double() - centre) @ basis


def cosine_diversity_by_prompt(features: Tensor, prompts: Sequence[str]) -> dict[str, float]:
    """1 - the mean cosine between two videos of a prompt, K / (K - 1) (1 - |mean f|^2) of K unit features, for each
    prompt that has two; features [N, D] of any length."""
    unit = torch.nn.functional.normalize(features.double(), dim=-1)
    rows: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(row)
    return {
        prompt: (len(several) / (len(several) - 1) * (1 - unit[several].mean(0).square().sum())).item()
        for prompt, several in rows.items()
        if len(several) > 1
    }
