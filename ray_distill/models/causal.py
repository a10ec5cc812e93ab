"""The part of a clip that a causal network's cache keeps, by its window: one rule for networks, samplers and plan."""

from ray_distill.models.wan.causal import keep

__all__ = ["keep"]
