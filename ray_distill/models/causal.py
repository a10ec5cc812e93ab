"""Rule of a causal cache, for networks, samplers and plan: the chunks that it keeps. Wan has the one copy.

The rule itself lies in a file that exports carry beside their weights, so it cannot live here; no file above `models/`
may name a family, so plan imports it from here.
"""

from ray_distill.models.wan.causal import keep

__all__ = ["keep"]
