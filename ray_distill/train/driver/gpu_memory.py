"""Check that a run's ranks fit into the memory of the cluster's GPUs, before data is prepared."""

from __future__ import annotations

import logging

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_distill.config import ConfigError, RunConfig
from ray_distill.plan import room
from ray_distill.train.driver.system_metrics import gpu_bytes

log = logging.getLogger(__name__)
TIMEOUT_S = 60.0


def check_room(config: RunConfig) -> str:
    """Line on the run's memory; ConfigError if the exactly counted terms alone exceed a GPU's memory."""
    memory = smallest_gpu()
    if memory is None:
        return ""
    try:
        fits, text = room(config, memory)
    except ValueError as error:  # plan cannot count such a run, which is no reason to stop it
        return f"no plan of its memory: {error}"
    if not fits:
        raise ConfigError(text)
    return text


def smallest_gpu() -> int | None:
    """Bytes of the smallest GPU of all nodes, by NVML; None if NVML finds none."""
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    asked = [
        ray.remote(gpu_bytes)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
        .remote()
        for node in nodes
    ]
    try:
        return min((size for sizes in ray.get(asked, timeout=TIMEOUT_S) for size in sizes), default=None)
    except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError) as error:
        log.warning("the memory of the GPUs is unknown: %s", type(error).__name__)
        return None
