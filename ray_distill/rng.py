"""Stateless randomness: numpy's counter-based Philox, keyed by (seed, purpose), counted by (step, sample).

World size, accumulation, restarts and rank cannot change a draw, so a checkpoint stores only the step. Draws are
computed on the CPU in fp32, so they are equal on every device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_CONTROL = (1 << 64) - 1  # the counter's sample word for draws that are not per sample


@dataclass(frozen=True)
class StatelessRng:
    """The :class:`ray_distill.types.Rng` of one step of one run."""

    seed: int
    step: int = 0

    def at(self, step: int) -> StatelessRng:
        return StatelessRng(self.seed, step)

    def _generator(self, purpose: str, sample: int) -> np.random.Generator:
        key = hashlib.blake2b(f"{self.seed}/{purpose}".encode(), digest_size=16).digest()
        # The draws count in the two low words, so that streams never overlap.
        counter = np.array([0, 0, self.step, sample], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype=np.uint64), counter=counter))

    def noise(self, purpose: str, sample_ids: Tensor, shape: Sequence[int]) -> Tensor:
        out = np.empty((len(sample_ids), *shape), dtype=np.float32)
        for row, sample in zip(out, sample_ids.tolist(), strict=True):
            self._generator(purpose, sample).standard_normal(out=row, dtype=np.float32)
        return torch.from_numpy(out).to(sample_ids.device)

    def uniform(self, purpose: str, sample_ids: Tensor) -> Tensor:
        draws = [self._generator(purpose, sample).random(dtype=np.float32) for sample in sample_ids.tolist()]
        return torch.tensor(draws, dtype=torch.float32, device=sample_ids.device)

    def control(self, purpose: str, high: int) -> int:
        return int(self._generator(purpose, _CONTROL).integers(high))
