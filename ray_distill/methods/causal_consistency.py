"""Causal consistency distillation: LCM of an autoregressive teacher (Causal-Forcing++, arXiv 2605.15141, stage 2).

1. n ~ U{1 .. M} on the teacher's Euler grid, one for all frames of a sample;  x_n = (1 - sigma_n) x_0 + sigma_n eps
2. student, target and teacher see each chunk of x after the clean chunks of x_0 before it (teacher forcing)
3. LCM's pair: the teacher's guided Euler step takes x_n to x_{n-1};  descend d(f(x_n), sg f_target(x_{n-1}))
The pairs include the one that ends at 0: without it nothing ties f to the data, and a constant has loss 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from ray_distill.diffusion.causal import clean_history, teacher_forced
from ray_distill.methods.chunked import Chunked
from ray_distill.methods.lcm import LCM
from ray_distill.types import Batch, LossTerms, Networks, Rng, Sampler, Shared


@dataclass(frozen=True)
class CausalConsistency(Chunked, LCM):
    """LCM's keys, with Causal-Forcing's values, and the keys of the chunks."""

    euler_steps: int = 48
    """Steps of the grid on which two neighbours are compared."""
    shift: float = 5.0
    """Shift of the levels, hence of the sampler's."""
    loss: Literal["huber", "l2"] = "l2"
    """huber: pseudo-Huber with huber_c. l2: the square."""
    target_decay: float = 0.99

    name: ClassVar[str] = "causal_consistency"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_chunks()

    def describe(self) -> str:
        return f"{super().describe()}; {self.describe_chunks()}"

    def sampler(self) -> Sampler:
        return replace(super().sampler(), chunks=self.chunks)

    def student_loss(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        assert batch.x_0 is not None
        lengths, history = self.lengths(batch.latent_shape[1]), clean_history(batch.x_0)
        forced = {
            role: teacher_forced(network, history, lengths, self.chunks.window) for role, network in networks.items()
        }
        return super().student_loss(forced, batch, rng, shared)
