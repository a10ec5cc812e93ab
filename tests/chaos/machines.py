"""A Ray cluster of three nodes on this machine: the driver's, and one for each of two workers."""

from __future__ import annotations

import time

from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

WORKER_CPUS = 1.5
"""What a worker asks for: a worker's node has room for one and for fetch tasks, the head for none."""
STORE = 150 << 20


class Machines:
    def __init__(self) -> None:
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False},
        )
        self._nodes = {}
        for _ in range(2):
            self.add()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self) -> None:
        node = self._cluster.add_node(num_cpus=2, object_store_memory=STORE)
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
