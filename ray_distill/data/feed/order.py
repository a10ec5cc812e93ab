"""The data plan: the rows of each step as a pure function of the seed; Ray Data only fetches them.

The step alone is the run's position in the data: after a resume with another number of workers each step has the same
rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ray_distill.errors import ConfigError

Buckets = Mapping[Any, Sequence[int]]
"""Row numbers by latent shape."""


def epoch_batches(
    buckets: Buckets, seed: int, epoch: int, global_batch: int, passes: Sequence[float] | None = None
) -> np.ndarray:
    """Row numbers [batches, global_batch] of one epoch, in order.

    The rows of a batch share a bucket (a latent shape). Each epoch shuffles each bucket anew and fills up its last
    batch from the bucket's start, so that all batches are full and each row comes at least once per epoch. Row r comes
    ``passes[r]`` >= 1 times, or once without ``passes``; for a fraction of a pass each epoch draws another part of the
    rows.
    """
    rng = np.random.default_rng([seed, epoch])
    batches = []
    for key in sorted(buckets, key=repr):
        rows = _draw(np.asarray(buckets[key], dtype=np.int64), passes, rng)
        if len(rows):
            batches.append(np.resize(rows, (-(-len(rows) // global_batch), global_batch)))
    if not batches:
        raise ConfigError("the data plan has no rows: every clip was skipped, or the manifest is empty")
    return rng.permutation(np.concatenate(batches))


def _draw(rows: np.ndarray, passes: Sequence[float] | None, rng: np.random.Generator) -> np.ndarray:
    """A bucket's rows in random order, each repeated as often as the epoch shows it."""
    times = np.ones(len(rows)) if passes is None else np.asarray(passes)[rows]
    groups = [(rows[times == often], often) for often in np.unique(times)]
    repeated = [np.resize(rng.permutation(group), round(often * len(group))) for group, often in groups]
    return repeated[0] if len(repeated) == 1 else rng.permutation(np.concatenate([rows[:0], *repeated]))


def usable(buckets: Buckets, passes: Sequence[float], global_batch: int, keep_small: bool) -> Buckets:
    """The buckets that training uses: all with ``keep_small``, else those with at least a global batch of rows.

    ConfigError where no bucket is left.
    """
    if keep_small:
        return buckets
    large = {key: rows for key, rows in buckets.items() if sum(passes[row] for row in rows) >= global_batch}
    if not large:
        raise ConfigError(
            f"data.keep_small_buckets = false: no bucket has a global batch of {global_batch} rows "
            f"({', '.join(f'{len(rows)} of {key}' for key, rows in buckets.items())}); keep them, or lower "
            "train.global_batch"
        )
    return large


class Plan:
    """The endless stream of epochs: ``plan[step]`` is the global batch of that step."""

    def __init__(self, buckets: Buckets, seed: int, global_batch: int, passes: Sequence[float] | None = None) -> None:
        self.buckets, self.seed, self.global_batch, self.passes = buckets, seed, global_batch, passes
        self.steps_per_epoch = len(self._batches(0))
        self._epoch: tuple[int, np.ndarray] | None = None

    def __getitem__(self, step: int) -> np.ndarray:
        """Row numbers [global_batch] of ``step``."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self._batches(epoch)
        return self._epoch[1][index]

    def _batches(self, epoch: int) -> np.ndarray:
        return epoch_batches(self.buckets, self.seed, epoch, self.global_batch, self.passes)


def substitutes(bucket: Sequence[int], seed: int, epoch: int, row: int) -> np.ndarray:
    """The rows [n] of a bucket in the order in which they may replace ``row``, which cannot be decoded. The order
    depends on the row and the epoch, so that no other row of the plan moves."""
    return np.random.default_rng([seed, epoch, row]).permutation(np.asarray(bucket, dtype=np.int64))


def loses_caption(seed: int, sample_ids: np.ndarray, probability: float) -> np.ndarray:
    """True [n] for samples that lose their caption; it depends on the seed and the sample id, which differs by
    epoch."""
    return _uniform(seed, "caption_dropout", sample_ids) < probability


def caption_numbers(seed: int, sample_ids: np.ndarray, captions: np.ndarray) -> np.ndarray:
    """Number [n], from 0, of the caption that each sample draws from its clip's ``captions`` [n] many; it depends on
    the seed and the sample id."""
    return (_uniform(seed, "caption", sample_ids) * captions).astype(np.int64)


def _uniform(seed: int, purpose: str, sample_ids: np.ndarray) -> np.ndarray:
    """Numbers [n] in [0, 1), one per sample."""
    key = np.frombuffer(hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest(), dtype=np.uint64)

    def draw(sample: int) -> float:
        counter = np.array([0, 0, 0, sample], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=counter)).random()

    return np.array([draw(sample) for sample in sample_ids])


def share(positions: int, rank: int, world: int, micro_batch: int) -> np.ndarray:
    """Positions [accumulation, micro_batch] of one rank within a global batch of ``positions`` samples."""
    return np.arange(positions).reshape(world, -1, micro_batch)[rank]
