"""cluster/kuberay against the fields that KubeRay publishes, and against what training needs of a pod."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.cluster.files import KUBERAY, cluster_spec, document, entrypoint, pods
from tests.unit.cluster.kuberay import KINDS, problems

GIB = 2**30


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_publishes_every_field(name: str) -> None:
    found = document(name)
    assert problems(found, KINDS[found["kind"]]) == []


def planted(spec: dict[str, Any]) -> Iterator[str]:
    """Mistakes, each undone by the caller; yields the path that the check must name."""
    spec["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    yield ".spec.headGroupSpec.rayStartParams.num-cpus"
    spec["authOptions"]["mode"] = "on"
    yield ".spec.authOptions.mode"
    spec["workerGroupSpecs"][0]["minReplica"] = 1
    yield ".spec.workerGroupSpecs[0].minReplica"
    spec["workerGroupSpecs"][1]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = 8
    yield ".spec.workerGroupSpecs[1].template.spec.containers[0].resources.limits.nvidia.com/gpu"
    spec["workerGroupSpecs"] = {}
    yield ".spec.workerGroupSpecs"


def test_the_check_sees_mistakes() -> None:
    broken = copy.deepcopy(document("kuberay/raycluster.yaml"))
    for path in planted(broken["spec"]):
        assert any(line.startswith(path) for line in problems(broken, KINDS["RayCluster"])), path


def test_both_kuberay_files_have_the_same_cluster() -> None:
    assert cluster_spec(KUBERAY[0]) == cluster_spec(KUBERAY[1])


def gibibytes(quantity: str) -> int:
    assert quantity.endswith("Gi")
    return int(quantity.removesuffix("Gi"))


def test_pods_have_gpus_shared_memory_and_shared_storage() -> None:
    spec = cluster_spec(KUBERAY[0])
    claim = document("kuberay/storage.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in pods(KUBERAY[0]):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        container = pod["containers"][0]
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert mounts["/shared"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        shm = mounts["/dev/shm"]["emptyDir"]
        assert shm["medium"] == "Memory"
        # A memory-backed volume counts against the container's limit.
        assert gibibytes(shm["sizeLimit"]) < gibibytes(container["resources"]["limits"]["memory"]) / 2
        assert pod["securityContext"]["runAsNonRoot"]
    names = [group["groupName"] for group in spec["workerGroupSpecs"]]
    assert names == ["gpu-spot", "gpu"] and spec["enableInTreeAutoscaling"]
    for group, pod in zip(spec["workerGroupSpecs"], pods(KUBERAY[0])[1:], strict=True):
        assert 0 == group["minReplicas"] < group["maxReplicas"]
        assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
        store = int(group["rayStartParams"]["object-store-memory"])
        assert store < gibibytes(pod["volumes"][0]["emptyDir"]["sizeLimit"]) * GIB
        tolerated = {item["key"] for item in pod["tolerations"]}
        spot = set(pod.get("nodeSelector", {}))
        assert tolerated == {"nvidia.com/gpu"} | spot and bool(spot) == ("spot" in group["groupName"])


def test_a_retried_rayjob_is_the_same_run() -> None:
    spec = document("kuberay/rayjob.yaml")["spec"]
    assert spec["backoffLimit"] > 0 and spec["shutdownAfterJobFinishes"]
    assert {"name=wan2.1_1.3b_dmd", "output_dir=/shared/output"} <= set(entrypoint("kuberay/rayjob.yaml"))
    assert (
        document("kuberay/rayjob.yaml")["metadata"]["name"] != document("kuberay/raycluster.yaml")["metadata"]["name"]
    )


@pytest.mark.parametrize("name", KUBERAY)
def test_no_process_gains_rights_and_no_worker_speaks_to_kubernetes(name: str) -> None:
    """Pod Security's "restricted", and no token of a service account where foreign videos are decoded."""
    spec = cluster_spec(name)
    head, *workers = pods(name)
    assert workers and all(pod["automountServiceAccountToken"] is False for pod in workers)
    assert "automountServiceAccountToken" not in head  # its autoscaler asks Kubernetes for nodes
    for pod in (head, *workers):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    contained = [container["securityContext"] for pod in (head, *workers) for container in pod["containers"]]
    for context in (*contained, spec["autoscalerOptions"]["securityContext"]):
        assert context == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
