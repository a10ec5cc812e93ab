"""Sample system metrics of every node, by a small actor on each but the driver's own; light to import.

Ray pickles the actor's class by name: this file must stay light to import.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

log = logging.getLogger(__name__)
EVERY_S = 5.0
Values = dict[str, float]


class Sampler:
    """Sampler of one machine's load, under the names of MLflow's own monitor, with the GPUs that NVML finds."""

    def __init__(self) -> None:
        psutil.cpu_percent()  # the first call has no interval to measure
        self._start = psutil.net_io_counters()
        self._gpus = _gpus()

    def sample(self) -> Values:
        """Percent, megabytes (10^6 bytes) and watts; CPU as the mean since the last call, network since the start."""
        memory, disk, network = psutil.virtual_memory(), psutil.disk_usage(os.sep), psutil.net_io_counters()
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / 1e6,
            "disk_available_megabytes": disk.free / 1e6,
            "network_receive_megabytes": (network.bytes_recv - self._start.bytes_recv) / 1e6,
            "network_transmit_megabytes": (network.bytes_sent - self._start.bytes_sent) / 1e6,
        }
        for number, gpu in enumerate(self._gpus):
            values |= {f"gpu_{number}_{name}": value for name, value in _of_gpu(gpu).items()}
        return {name: round(value, 1) for name, value in values.items()}


def _gpus() -> list[Any]:
    """NVML's handles; it sees all GPUs of a machine, whatever Ray shows to this process."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except Exception as error:  # no module, no driver or no GPU: this machine has no GPU metrics
        log.debug("no GPU is sampled: %s", error)
        return []


def gpu_bytes() -> list[int]:
    """Memory of each of this machine's GPUs."""
    gpus = _gpus()
    if not gpus:
        return []
    import pynvml

    return [int(pynvml.nvmlDeviceGetMemoryInfo(gpu).total) for gpu in gpus]


def _of_gpu(gpu: Any) -> Values:
    import pynvml

    asked: dict[str, Callable[[], float]] = {
        "utilization_percentage": lambda: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
        "memory_usage_megabytes": lambda: pynvml.nvmlDeviceGetMemoryInfo(gpu).used / 1e6,
        "memory_usage_percentage": lambda: 100 * _share(pynvml.nvmlDeviceGetMemoryInfo(gpu)),
        "power_usage_watts": lambda: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1e3,
        "power_usage_percentage": lambda: (
            100 * pynvml.nvmlDeviceGetPowerUsage(gpu) / pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu)
        ),
    }
    values: Values = {}
    for name, ask in asked.items():
        try:
            values[name] = ask()
        except pynvml.NVMLError:  # not every GPU reports everything: a slice of a GPU has no utilization
            continue
    return values


def _share(memory: Any) -> float:
    return memory.used / memory.total


class Nodes:
    """Samplers of all alive nodes. A dead node costs its samples; new nodes are found automatically.

    Nodes get numbers in the order of discovery, the driver's first, so every run has the same names.
    """

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        """``node_0``: the node's host."""
        self._here: Sampler | None = None
        self._actors: dict[str, Any] = {}  # of other nodes, by id; None where the actor was lost
        self._labels: dict[str, str] = {}
        self._pending: dict[Any, str] = {}

    def poll(self) -> Values:
        """Metrics that arrived since the last call, as ``node_0/cpu_utilization_percentage``; waits for no node."""
        values: Values = {}
        done, _ = ray.wait(list(self._pending), num_returns=len(self._pending), timeout=0) if self._pending else ([], 0)
        for ref in done:
            node = self._pending.pop(ref)
            try:
                values |= {f"{self._labels[node]}/{name}": value for name, value in ray.get(ref).items()}
            except ray.exceptions.RayError:  # the node or its sampler died: ask it no more
                self._actors[node] = None
        if self._here is not None:
            values |= {f"node_0/{name}": value for name, value in self._here.sample().items()}
        self._meet()
        asked = set(self._pending.values())
        for node, actor in self._actors.items():
            if actor is not None and node not in asked:
                self._pending[actor.sample.remote()] = node
        return values

    def _meet(self) -> None:
        """Start a sampler for each new node."""
        own = ray.get_runtime_context().get_node_id()
        alive = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
        for node in sorted(alive.keys() - self._labels.keys(), key=lambda node: (node != own, alive[node], node)):
            if node == own and not ray.util.client.ray.is_connected():  # a client runs on another machine
                self._here = Sampler()
            else:
                there = NodeAffinitySchedulingStrategy(node, soft=False)
                self._actors[node] = ray.remote(Sampler).options(num_cpus=0, scheduling_strategy=there).remote()
            self._labels[node] = f"node_{len(self._labels)}"
            self.names[self._labels[node]] = alive[node]

    def stop(self) -> None:
        for actor in self._actors.values():
            if actor is not None:
                ray.kill(actor)


@contextmanager
def watch_nodes(
    send: Callable[[Values], None], tell: Callable[[Mapping[str, str]], None], every_s: float = EVERY_S
) -> Iterator[None]:
    """Sample all nodes while the block runs, in a separate thread, since preparation and evaluation block the driver's.

    ``send`` takes each round of values, ``tell`` the hosts of new nodes by name.
    """
    ended = threading.Event()

    def watch() -> None:
        nodes, count = Nodes(), 0
        try:
            while ray.is_initialized():  # after Ray's end a call to it would start another
                if values := nodes.poll():
                    send(values)
                if len(nodes.names) > count:
                    tell(nodes.names)
                    count = len(nodes.names)
                if ended.wait(every_s):
                    nodes.stop()
                    break
        except Exception as error:  # whatever Ray raises when it ends or loses its head, the run must continue
            log.warning("no more system metrics: %s: %s", type(error).__name__, error)

    thread = threading.Thread(target=watch, name="nodes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=every_s)


def ray_logs() -> str:
    """Folder of this Ray's log files, on each of its machines."""
    if ray.util.client.ray.is_connected():  # a client cannot know the folder
        return "in its dashboard, under Logs"
    here = ray.get_runtime_context()
    return f"{here.get_temp_dir()}/{here.get_session_name()}/logs"


def ray_job() -> str:
    """Id of this program in ``ray job``, else Ray's own number for it."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    return (job.get("metadata") or {}).get("job_submission_id") or ray.get_runtime_context().get_job_id()
