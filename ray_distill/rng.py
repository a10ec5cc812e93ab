"""Stateless randomness: numpy's counter-based Philox, keyed by (seed, purpose), counted by (step, sample).

World size, accumulation, restarts and rank cannot change a draw, so a checkpoint stores only the step. Draws are
computed on the CPU in fp32, so they are equal on every device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
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

    def _generators(self, purpose: str, samples: Iterable[int]) -> Iterator[np.random.Generator]:
        """Yield each sample's generator: one object whose counter is set, as making one takes seven times as long."""
        key = hashlib.blake2b(f"{self.seed}/{purpose}".encode(), digest_size=16).digest()
        # The draws count in the two low words, so that streams never overlap.
        counter = np.array([0, 0, self.step, 0], dtype=np.uint64)
        bits = np.random.Philox(key=np.frombuffer(key, dtype=np.uint64), counter=counter)
        generator, start = np.random.Generator(bits), bits.state
        for sample in samples:
            start["state"]["counter"][3] = sample
            bits.state = start
            yield generator

    def noise(self, purpose: str, sample_ids: Tensor, shape: Sequence[int]) -> Tensor:
        out = np.empty((len(sample_ids), *shape), dtype=np.float32)
        for row, generator in zip(out, self._generators(purpose, sample_ids.tolist()), strict=True):
            generator.standard_normal(out=row, dtype=np.float32)
        return torch.from_numpy(out).to(sample_ids.device)

    def uniform(self, purpose: str, sample_ids: Tensor) -> Tensor:
        draws = [generator.random(dtype=np.float32) for generator in self._generators(purpose, sample_ids.tolist())]
        return torch.tensor(draws, dtype=torch.float32, device=sample_ids.device)

    def control(self, purpose: str, high: int) -> int:
        (generator,) = self._generators(purpose, [_CONTROL])
        return int(generator.integers(high))
