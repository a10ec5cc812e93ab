"""Compute the number of concurrent trials, and the share of a CPU for their workers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ray_distill.config import ConfigError
from ray_distill.config.sections import Train

DRIVER_CPUS = 0.1
"""A trial's driver mostly sleeps; Tune's default of a whole CPU would leave its workers none."""
BESIDE_CPUS = 0.3
"""CPUs of a trial beside its workers: for Ray Data's fetches and one validation."""
LEAST_CPUS = 0.05


@dataclass(frozen=True)
class Slots:
    concurrent: int
    cpus_per_worker: float


def slots(cluster: Mapping[str, float], train: Train, asked: int | None, sampling_gpus: int = 1) -> Slots:
    """Number of trials at a time, and the CPUs of their workers; ``cluster`` has all of Ray's resources.

    Workers get less of a CPU each if that lets ``asked`` trials run.

    A trial that trains on GPUs gets ``sampling_gpus`` more for its validations if the cluster has them. ConfigError if
    no trial fits, or fewer than ``asked``.
    """
    cpus, gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    beside = DRIVER_CPUS + BESIDE_CPUS
    if train.use_gpu and gpus < train.workers:
        raise ConfigError(
            f"train.workers = {train.workers}: each worker needs a GPU, and the cluster has {gpus:g}; lower "
            "train.workers"
        )
    by_cpu = max(1, math.floor(cpus / (train.workers * train.cpus_per_worker + beside)))
    by_gpu = max(1, int(gpus // (train.workers + sampling_gpus))) if train.use_gpu else by_cpu
    concurrent = asked or min(by_cpu, by_gpu)
    if train.use_gpu and concurrent * train.workers > gpus:
        raise ConfigError(
            f"concurrent = {concurrent}: these trials need {concurrent * train.workers} GPUs, and the cluster has "
            f"{gpus:g}; lower concurrent or train.workers"
        )
    share = (cpus - concurrent * beside) / (concurrent * train.workers)
    share = math.floor(100 * min(share, train.cpus_per_worker)) / 100
    if share < LEAST_CPUS:
        raise ConfigError(
            f"concurrent = {concurrent}: of {cpus:g} CPUs each worker would get {max(share, 0):g}, and it needs at "
            f"least {LEAST_CPUS}; lower concurrent or train.workers"
        )
    return Slots(concurrent, share)
