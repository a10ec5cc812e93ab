"""Real networks behind Denoiser. A family is one adapter file, found by name."""

from __future__ import annotations

from ray_distill.models.wan import Wan

FAMILIES = {family.name: family for family in (Wan,)}
