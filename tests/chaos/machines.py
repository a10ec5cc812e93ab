"""A Ray cluster on this machine: the driver's node, and nodes for workers; by default two, each for one worker."""

from __future__ import annotations

import math
import time

from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

WORKER_CPUS, FETCH_CPUS = 1.5, 0.5
"""What a worker and fetch tasks ask for: a worker's node has room for its workers and for fetch tasks, the head for no
worker."""
STORE = 150 << 20


class Machines:
    def __init__(self, nodes: int = 2, workers: int = 1) -> None:
        self._cpus = math.ceil(workers * WORKER_CPUS + FETCH_CPUS)  # Ray takes whole numbers
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False},
        )
        self._nodes = {}
        for _ in range(nodes):
            self.add()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self) -> None:
        node = self._cluster.add_node(num_cpus=self._cpus, object_store_memory=STORE)
        self._nodes[node.node_id] = node

    def kill(self, node_id: str) -> None:
        """End a node's processes at once, as if its machine were gone."""
        self._cluster.remove_node(self._nodes.pop(node_id), allow_graceful=False)

    def notice(self, node_id: str, seconds: float) -> None:
        """Tell Ray, as a cloud's autoscaler does, that a node will be taken away; the node stays until someone kills
        it."""
        deadline = int(1000 * (time.time() + seconds))
        reason = autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
        accepted, why = GcsClient(address=self.address).drain_node(node_id, reason, "chaos", deadline)
        assert accepted, why

    def close(self) -> None:
        self._cluster.shutdown()
