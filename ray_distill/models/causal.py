"""What a causal network's cache keeps of a clip, by its window: one rule for networks, samplers and plan."""

from ray_distill.models.wan.causal import keep

__all__ = ["keep"]
