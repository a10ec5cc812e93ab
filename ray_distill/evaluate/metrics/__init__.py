"""Metrics of samples, each with its unit and definition in docs/metrics.md.

They run on any machine that has the samples: no Ray, and no network but the classifier and the user's own.
May import: data.read, models, config.
A new metric owes its unit, its definition, and a fault that it detects.
"""

from __future__ import annotations

from ray_distill.evaluate.metrics.classifier import Metric
from ray_distill.evaluate.metrics.distribution import (
    cosine_diversity_by_prompt,
    diversity,
    diversity_by_prompt,
    frechet_distance,
)
from ray_distill.evaluate.metrics.measures import measures
from ray_distill.evaluate.metrics.ratio import Ratio, by_prompt, mean_by_prompt, paired_difference, paired_ratio

__all__ = [
    "Metric",
    "Ratio",
    "by_prompt",
    "cosine_diversity_by_prompt",
    "diversity",
    "diversity_by_prompt",
    "frechet_distance",
    "mean_by_prompt",
    "measures",
    "paired_difference",
    "paired_ratio",
]
