"""Metrics of samples, each with its unit and definition in docs/metrics.md.

They run where the samples are, on any machine: no Ray, no network but the classifier. A new metric owes its unit, its
definition, and a fault that it names.
"""

from __future__ import annotations

from ray_distill.evaluate.metrics.classifier import Metric
from ray_distill.evaluate.metrics.distribution import diversity, diversity_by_prompt, frechet_distance
from ray_distill.evaluate.metrics.ratio import Ratio, by_prompt, mean_by_prompt, paired_ratio
from ray_distill.evaluate.metrics.video import MEASURES, chroma, measures, motion, saturation

__all__ = [
    "MEASURES",
    "Metric",
    "Ratio",
    "by_prompt",
    "chroma",
    "diversity",
    "diversity_by_prompt",
    "frechet_distance",
    "mean_by_prompt",
    "measures",
    "motion",
    "paired_ratio",
    "saturation",
]
