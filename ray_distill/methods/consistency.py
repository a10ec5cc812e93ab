"""Consistency of a rollout's predictions, a term beside distribution matching: all exits learn one map from noise.

1. roll out by Euler to the exit k, as DMD2 does, but with each step's x_0-prediction x_j, j = 0..k, for a gradient
2. descend ``consistency_weight`` sum_{j<k} mean (x_j - x_k)^2, to which both ends yield
Along an "ode" rollout x_k is a function of the noise alone, which every earlier step can learn. The states between the
steps carry no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ray_distill.diffusion.losses import mse
from ray_distill.diffusion.prefix import generated
from ray_distill.methods.modalities import Modalities
from ray_distill.types import Batch


@dataclass(frozen=True, kw_only=True)
class Consistency(Modalities):
    consistency_weight: float = 0.0
    """Weight of the distances between a rollout's last x_0-prediction and its earlier ones; 0 is off."""

    def check_consistency(self, steps: int, rollout: str, simulated: bool) -> None:
        """ValueError if the weight is negative, or if no rollout has earlier predictions that can meet its last."""
        weight = f"consistency_weight = {self.consistency_weight}"
        if self.consistency_weight < 0:
            raise ValueError(f"{weight}: use 0 (off) or more")
        if not self.consistency_weight:
            return
        if steps < 2:
            raise ValueError(
                f"{weight}: it compares the predictions of several steps, and this student has one; give two timesteps "
                "or more, or remove consistency_weight"
            )
        if rollout != "ode":
            raise ValueError(
                f"{weight}: with rollout = {rollout} the last prediction depends on noise that no earlier step sees, "
                "so that these would learn its mean, which is blurred; set method.rollout=ode, or remove "
                "consistency_weight"
            )
        if not simulated:
            raise ValueError(
                f"{weight}: with backward_simulation = False there is no rollout; set method.backward_simulation=true, "
                "or remove consistency_weight"
            )

    def consistency_loss(self, batch: Batch, predictions: Sequence[Tensor]) -> Tensor:
        """sum_j mean (x_j - x_k)^2 over a modality's generated elements, of the ``predictions`` x_0..x_k, each
        [B, C, T, H, W]; 0 for a rollout of one step."""
        *earlier, last = (generated(x, batch.prefix) for x in predictions)
        loss = last.new_zeros(())
        for x in earlier:
            loss = loss + self.weighed(mse, batch, x, last)
        return loss
