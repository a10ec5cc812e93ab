"""Keep an evaluation's latents on disk within a limit, so that a new measure needs no new sampling."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from ray_distill import sealed
from ray_distill.config import RunConfig
from ray_distill.models.packed import tensor_shape
from ray_distill.sealed import Damaged

log = logging.getLogger(__name__)
FOLDER, SUFFIX = "samples", ".safetensors"
GIB = 1 << 30
Sampling = tuple[str, int]
"""A sampler's name in the report, and its seed."""


@dataclass(frozen=True)
class LatentCache:
    """Latents in fp32, without loss, in files of a ``folder`` that has at most ``limit`` bytes: the files that were not
    used for the longest time are removed."""

    folder: Path
    limit: int

    def load(self, name: str) -> tuple[Tensor, float] | None:
        """Latents [N, C, T, H, W] on the CPU, and the seconds that the sampling of one video took; None where the file
        is absent or damaged, and the samples have to be drawn again."""
        path = self._path(name)
        try:
            tensors, numbers = sealed.read_tensors(path)
        except (FileNotFoundError, Damaged):
            return None
        with suppress(OSError):  # another task has just removed it, or the folder cannot be written
            os.utime(path)
        return torch.from_numpy(tensors["latents"]), float(numbers["seconds"])

    def save(self, name: str, latents: Tensor, seconds: float) -> None:
        """Write a file, unless it alone is above the limit. A full disk costs the file, not the evaluation."""
        if latents.nbytes > self.limit:
            return
        try:
            sealed.write_tensors(self._path(name), {"latents": latents.numpy()}, {"seconds": repr(seconds)})
            self._prune()
        except OSError as error:
            log.warning("samples are not kept: %s", error)

    def _prune(self) -> None:
        """Remove the files that were used first, to the limit. Other tasks may remove files at the same time."""
        files = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            with suppress(FileNotFoundError):
                stat = path.stat()
                files.append((stat.st_mtime_ns, stat.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.limit:
                return
            path.unlink(missing_ok=True)
            total -= size

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{SUFFIX}"


def latent_cache(config: RunConfig, folder: Path) -> LatentCache:
    """The latents beside the embeddings of the prompts, in the cache's ``folder``."""
    return LatentCache(folder / FOLDER, int(config.evaluate.keep_gib * GIB))


def to_keep(
    config: RunConfig, compared: Sequence[str], first: Sequence[str], videos: int
) -> tuple[set[Sampling], str | None]:
    """(samplings of ``compared`` that fit into evaluate.keep_gib together, a line on others), samplers named by
    ``first`` before others. Those that fit never push each other out."""
    settings, shape = config.evaluate, tensor_shape(config.model.pipeline.latent_shape(*config.shown_size))
    names = sorted(compared, key=lambda name: name not in first)
    samplings = [(name, seed) for name in names for seed in settings.seeds]
    each = 4 * prod(shape) * videos + (1 << 12)  # with the file's header
    fitting = min(len(samplings), int(settings.keep_gib * GIB) // each)
    line = None
    if settings.keep_gib > 0 and fitting < len(samplings):
        line = (
            f"latents of {fitting} of {len(samplings)} samplings are kept for a later evaluation by other metrics; "
            f"evaluate.keep_gib={-(-each * len(samplings) // (GIB // 10)) / 10:g} keeps all"
        )
    return set(samplings[:fitting]), line
