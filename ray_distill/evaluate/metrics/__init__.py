"""Metrics of samples.

They run where the samples are, on any machine: no Ray, no network but the classifier. A new metric owes its unit, its
definition, and a fault that it names.
"""

from __future__ import annotations

from ray_distill.evaluate.metrics.classifier import Metric
from ray_distill.evaluate.metrics.distribution import diversity, frechet_distance

__all__ = ["Metric", "diversity", "frechet_distance"]
