"""What KubeRay 1.7.0 publishes of the objects in cluster/kuberay (API reference, ray.io/v1), and a check against it.

A type is a Python class, a tuple of allowed values, a table of fields, or a list of one of these. Pod templates belong
to Kubernetes: of them only the fields that our files use are listed, with the types of the core/v1 reference.
"""

from __future__ import annotations

from typing import Any

STRINGS = {"*": str}
LABELS = {"labels": STRINGS, "annotations": STRINGS}
QUANTITIES = {"cpu": str, "memory": str, "ephemeral-storage": str, "nvidia.com/gpu": str}
ENV = {"name": str, "value": str}

POD = {
    "metadata": LABELS,
    "spec": {
        "terminationGracePeriodSeconds": int,
        "nodeSelector": STRINGS,
        "securityContext": {
            "runAsNonRoot": bool,
            "runAsUser": int,
            "runAsGroup": int,
            "fsGroup": int,
            "fsGroupChangePolicy": ("Always", "OnRootMismatch"),
            "seccompProfile": {"type": ("RuntimeDefault",)},
        },
        "automountServiceAccountToken": bool,
        "tolerations": [
            {
                "key": str,
                "operator": ("Equal", "Exists"),
                "value": str,
                "effect": ("NoSchedule", "PreferNoSchedule", "NoExecute"),
            }
        ],
        "containers": [
            {
                "name": str,
                "image": str,
                "securityContext": {"allowPrivilegeEscalation": bool, "capabilities": {"drop": [str]}},
                "env": [ENV],
                "envFrom": [{"secretRef": {"name": str, "optional": bool}}],
                "resources": {"requests": QUANTITIES, "limits": QUANTITIES},
                "volumeMounts": [{"name": str, "mountPath": str}],
            }
        ],
        "volumes": [
            {
                "name": str,
                "emptyDir": {"medium": ("Memory",), "sizeLimit": str},
                "persistentVolumeClaim": {"claimName": str},
            }
        ],
    },
}

HEAD_GROUP = {
    "template": POD,
    "headService": dict,
    "enableIngress": bool,
    "ingressOptions": dict,
    "resources": STRINGS,
    "labels": STRINGS,
    "rayStartParams": STRINGS,
    "serviceType": ("ClusterIP", "NodePort", "LoadBalancer"),
}

WORKER_GROUP = {
    "suspend": bool,
    "groupName": str,
    "replicas": int,
    "minReplicas": int,
    "maxReplicas": int,
    "idleTimeoutSeconds": int,
    "priority": int,
    "resources": STRINGS,
    "labels": STRINGS,
    "rayStartParams": STRINGS,
    "template": POD,
    "scaleStrategy": {"workersToDelete": [str]},
    "numOfHosts": int,
}

CLUSTER_SPEC = {
    "upgradeStrategy": {"type": ("Recreate", "None")},
    "authOptions": {"mode": ("token", "disabled"), "secretName": str, "enableK8sTokenAuth": bool},
    "suspend": bool,
    "managedBy": str,
    "autoscalerOptions": {
        "resources": dict,
        "image": str,
        "imagePullPolicy": str,
        "securityContext": dict,
        "idleTimeoutSeconds": int,
        "upscalingMode": ("Default", "Aggressive", "Conservative"),
        "version": ("v1", "v2"),
        "env": [ENV],
        "envFrom": list,
        "volumeMounts": list,
        "command": [str],
        "args": [str],
    },
    "headServiceAnnotations": STRINGS,
    "enableInTreeAutoscaling": bool,
    "gcsFaultToleranceOptions": dict,
    "historyServerOptions": dict,
    "networkPolicy": dict,
    "tlsOptions": {"enabled": bool},
    "headGroupSpec": HEAD_GROUP,
    "rayVersion": str,
    "workerGroupSpecs": [WORKER_GROUP],
}

JOB_SPEC = {
    "activeDeadlineSeconds": int,
    "backoffLimit": int,
    "rayClusterSpec": CLUSTER_SPEC,
    "submitterPodTemplate": POD,
    "metadata": STRINGS,
    "clusterSelector": STRINGS,
    "submitterConfig": {"backoffLimit": int},
    "managedBy": str,
    "deletionStrategy": dict,
    "entrypoint": str,
    "runtimeEnvYAML": str,
    "jobId": str,
    "submissionMode": ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    "entrypointResources": str,
    "entrypointNumCpus": float,
    "entrypointNumGpus": float,
    "ttlSecondsAfterFinished": int,
    "preRunningDeadlineSeconds": int,
    "shutdownAfterJobFinishes": bool,
    "suspend": bool,
}

METADATA = {"name": str, "namespace": str, **LABELS}
KINDS = {
    "RayCluster": {"apiVersion": ("ray.io/v1",), "kind": str, "metadata": METADATA, "spec": CLUSTER_SPEC},
    "RayJob": {"apiVersion": ("ray.io/v1",), "kind": str, "metadata": METADATA, "spec": JOB_SPEC},
}


def problems(value: Any, kind: Any, at: str = "") -> list[str]:
    """Where ``value`` is not of the type ``kind``: dotted paths, none where all is well."""
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            return [f"{at}: a {type(value).__name__}, not a mapping"]
        found = [f"{at}.{key}: no such field" for key in value if key not in kind and "*" not in kind]
        known = [(key, kind.get(key, kind.get("*"))) for key in value]
        return found + [line for key, inner in known if inner for line in problems(value[key], inner, f"{at}.{key}")]
    if isinstance(kind, list):
        if not isinstance(value, list):
            return [f"{at}: a {type(value).__name__}, not a list"]
        return [line for i, item in enumerate(value) for line in problems(item, kind[0], f"{at}[{i}]")]
    if isinstance(kind, tuple):
        return [] if value in kind else [f"{at} = {value!r}: not one of {', '.join(kind)}"]
    right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    return [] if right else [f"{at} = {value!r}: not a {kind.__name__}"]
