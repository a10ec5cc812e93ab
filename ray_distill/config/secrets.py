"""What nothing may show: the masking of ray_distill/masking.py, where configurations look for it."""

from ray_distill.masking import HIDDEN, mask, masked

__all__ = ["HIDDEN", "mask", "masked"]
