"""The files of cluster/, against Ray's own schema, KubeRay's published fields, our configuration and each other.

None of them was run on a cluster: what is tested is what can be known without one.
"""

from __future__ import annotations

import copy
import re
import shlex
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from jsonschema import ValidationError
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.util import prepare_config, validate_config

import ray_distill
from ray_distill.config import RunConfig, load_config
from tests.unit.cluster.kuberay import KINDS, problems

ROOT = Path(__file__).parents[3]
CLUSTER = ROOT / "cluster"
KUBERAY = ("kuberay/raycluster.yaml", "kuberay/rayjob.yaml")
CLOUDS = ("aws.yaml", "gcp.yaml")
STORED = ("kuberay/storage.yaml",)
ENTRIES = (*KUBERAY, *CLOUDS, "slurm.sh")
CHECKOUT = "/home/ray/ray_distill"  # where the image and the cluster launcher put it
GIB = 2**30


def pinned(package: str) -> str:
    found = re.search(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert found
    return found[1]


def document(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / name).read_text())


def cluster_spec(name: str) -> dict[str, Any]:
    spec = document(name)["spec"]
    return spec.get("rayClusterSpec", spec)


def pods(name: str) -> list[dict[str, Any]]:
    """The pod specs, head first."""
    spec = cluster_spec(name)
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def environment(name: str) -> dict[str, str]:
    """What the head's processes get."""
    if name in KUBERAY:
        return {item["name"]: item["value"] for item in pods(name)[0]["containers"][0]["env"]}
    if name in CLOUDS:
        options = [shlex.split(option) for option in document(name)["docker"]["run_options"]]
        return dict(option[1].split("=", 1) for option in options if option[0] == "-e")
    exports = re.findall(r"^export (\w+)=(\S+)", (CLUSTER / name).read_text(), re.M)
    return {key: value.replace("$shared", "/shared") for key, value in exports}


def header(name: str) -> str:
    """The comment on top, without its marks and with continued lines joined."""
    lines = []
    for line in (CLUSTER / name).read_text().removeprefix("#!/bin/bash\n").splitlines():
        if not line.startswith("#") or line.startswith("#SBATCH"):
            break
        lines.append(line.removeprefix("#").strip())
    return "\n".join(lines).replace("\\\n", "")


def commands(name: str) -> list[str]:
    """The command lines of the comment on top, the first of which is its first line."""
    programs = ("kubectl ", "ray ", "sbatch ", "docker ")
    found = [line for line in header(name).splitlines() if line.startswith(programs)]
    assert found[0] == header(name).splitlines()[0]
    return found


def entrypoint(name: str) -> list[str]:
    """The words after train.py: a configuration and its overrides."""
    if name == "kuberay/rayjob.yaml":
        words = shlex.split(document(name)["spec"]["entrypoint"])
    elif name == "slurm.sh":
        return shlex.split(commands(name)[0])[2:]
    else:
        line = next(line for line in commands(name) if "train.py" in line)
        words = shlex.split(line.replace("'", " "))
    at = next(i for i, word in enumerate(words) if word.endswith("train.py"))
    assert words[at - 1] == "python"
    return words[at + 1 :]


def in_checkout(word: str) -> Path:
    return ROOT / word.removeprefix(CHECKOUT + "/").removeprefix("~/ray_distill/")


@pytest.mark.parametrize("name", [*ENTRIES, *STORED, "Dockerfile"])
def test_commands_on_top_name_files_that_exist(name: str) -> None:
    words = [word for line in commands(name) for word in shlex.split(line.replace("'", " "))]
    paths = [word for word in words if re.search(r"(\.yaml|\.py|\.sh|Dockerfile)$", word)]
    assert f"cluster/{name}" in paths
    for path in paths:
        assert in_checkout(path).is_file(), path


def test_the_readme_names_each_file_and_its_command() -> None:
    rows = [line for line in (CLUSTER / "README.md").read_text().splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    assert named == {*ENTRIES, "Dockerfile"}
    for row in rows:
        command = re.findall(r"`([^`]+)`", row.split("|")[3])[0]
        start = re.split(r" ~/ray_distill| CONFIG", command)[0]
        assert any(commands(name)[0].startswith(start) for name in named if name in command or name == "aws.yaml"), row


@pytest.mark.parametrize("name", ENTRIES)
def test_our_configuration_takes_the_entry_point_and_resumes_from_shared_storage(name: str) -> None:
    config_file, *overrides = entrypoint(name)
    config = load_config(in_checkout(config_file), overrides, environment(name)).config
    assert_shared(config)
    assert config.run_dir == Path("/shared/output/wan2.1_1.3b_dmd")
    assert config.track.uri == "http://mlflow:5000"
    big = load_config(ROOT / "configs/wan2.1_14b/dmd.yaml", ["model.path=/shared/models/14b"], environment(name)).config
    assert_shared(big)


def assert_shared(config: RunConfig) -> None:
    for path in (config.output_dir, config.model.path, config.data.manifest, config.data.cache_dir):
        assert path.is_relative_to("/shared"), path


def test_a_retried_rayjob_is_the_same_run() -> None:
    spec = document("kuberay/rayjob.yaml")["spec"]
    assert spec["backoffLimit"] > 0 and spec["shutdownAfterJobFinishes"]
    assert {"name=wan2.1_1.3b_dmd", "output_dir=/shared/output"} <= set(entrypoint("kuberay/rayjob.yaml"))
    assert (
        document("kuberay/rayjob.yaml")["metadata"]["name"] != document("kuberay/raycluster.yaml")["metadata"]["name"]
    )


@pytest.mark.parametrize("name", ENTRIES)
def test_ray_has_a_token_time_to_start_nodes_and_time_to_save(name: str) -> None:
    given = environment(name)
    if name in KUBERAY:
        assert cluster_spec(name)["authOptions"] == {"mode": "token"}
        drain = float(given["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert all(drain < pod["terminationGracePeriodSeconds"] for pod in pods(name))
        assert float(given["RAY_JOB_STOP_WAIT_TIME_S"]) < drain
    else:
        assert given["RAY_AUTH_MODE"] == "token"
    assert float(given["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"]) >= 600
    if name != "slurm.sh":  # no Ray job there; its own test has the signal
        assert int(given["RAY_JOB_STOP_WAIT_TIME_S"]) >= 300  # Ray reads an int


def test_ray_reads_these_variables() -> None:
    from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

    sources = Path(ray.__file__).parent
    assert '"RAY_JOB_STOP_WAIT_TIME_S"' in (sources / "dashboard/modules/job/job_supervisor.py").read_text()
    assert '"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"' in (sources / "_private/ray_constants.py").read_text()
    # Set where the driver runs, it reaches the controller that waits.
    assert "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S" in ENV_VARS_TO_PROPAGATE


def test_no_file_holds_a_token() -> None:
    for path in [*(p for p in CLUSTER.rglob("*") if p.is_file()), ROOT / ".dockerignore"]:
        for value in re.findall(r"(?:TOKEN|PASSWORD|SECRET)\w*(?:=|: *|, value: *)(\S+)", path.read_text()):
            assert value.startswith(("$", "{", '"$')), f"{path}: {value}"


# Versions


def test_one_version_of_ray_and_of_ours() -> None:
    version, ours = pinned("ray"), f"ray_distill:{ray_distill.__version__}"
    bases = [document(name)["docker"]["image"] for name in CLOUDS] + [instructions("FROM")[0][0]]
    assert set(bases) == {f"rayproject/ray:{version}-py311-gpu"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "3.11" in SpecifierSet(project["requires-python"])
    for name in KUBERAY:
        assert cluster_spec(name)["rayVersion"] == version
        images = [container["image"] for pod in pods(name) for container in pod["containers"]]
        assert {image.rpartition("/")[2] for image in images} == {ours}
    assert ours in header("Dockerfile")


# KubeRay


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


# Ray's cluster launcher


@pytest.mark.parametrize("name", CLOUDS)
def test_rays_own_schema_takes_the_launcher_files(name: str) -> None:
    validate_config(prepare_config(document(name)))
    with pytest.raises(ValidationError, match="max_worker"):
        validate_config(prepare_config(document(name) | {"max_worker": 2}))


@pytest.mark.parametrize("name", CLOUDS)
def test_launcher_workers_are_spot_and_the_head_is_not(name: str) -> None:
    kinds = document(name)["available_node_types"]
    head = kinds.pop(document(name)["head_node_type"])["node_config"]
    assert kinds and not {"InstanceMarketOptions", "scheduling"} & head.keys()
    # The spelling is that of Ray's defaults for this cloud.
    defaults = prepare_config({"cluster_name": "x", "provider": {"type": document(name)["provider"]["type"]}})
    worker = next(v for k, v in defaults["available_node_types"].items() if k != defaults["head_node_type"])
    key = "InstanceMarketOptions" if name == "aws.yaml" else "scheduling"
    spot = worker["node_config"][key]
    for kind in kinds.values():
        ours = kind["node_config"][key]
        assert ours == spot if name == "aws.yaml" else spot[0] in ours
        assert kind["resources"]["GPU"] == 8 and kind["max_workers"] == document(name)["max_workers"]


@pytest.mark.parametrize("name", CLOUDS)
def test_launcher_nodes_mount_storage_install_in_one_line_and_listen_on_loopback(name: str) -> None:
    launched = document(name)
    mounts = [line for line in launched["initialization_commands"] if "mount -t nfs" in line]
    assert len(mounts) == 1 and mounts[0].endswith(" /shared")
    assert "-v /shared:/shared" in launched["docker"]["run_options"]
    assert launched["setup_commands"] == ["cd ~/ray_distill && pip install -c constraints.txt ."]
    assert launched["file_mounts"] == {CHECKOUT: ".", "/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    assert all(line.count("--dashboard-host=127.0.0.1") == line.count("--head") for line in starts(launched))


def starts(launched: dict[str, Any]) -> list[str]:
    lines = launched["head_start_ray_commands"] + launched["worker_start_ray_commands"]
    found = [line for line in lines if "ray start" in line]
    assert len(found) == 2
    return found


# Dockerfile


def instructions(keyword: str) -> list[list[str]]:
    lines = (CLUSTER / "Dockerfile").read_text().splitlines()
    return [line.split()[1:] for line in lines if line.startswith(f"{keyword} ")]


def ignored(path: str) -> bool:
    """Docker's rule: the last pattern of .dockerignore that matches decides; ``!`` takes back in."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").removeprefix("**/")
        parts = path.split("/")
        tails = [
            "/".join(parts[i:j])
            for i in range(len(parts) if "**/" in line else 1)
            for j in range(i + 1, len(parts) + 1)
        ]
        if any(fnmatch(tail, pattern) for tail in tails):
            out = not line.startswith("!")
    return out


def test_the_image_gets_all_that_pip_needs_and_nothing_else() -> None:
    copied = [word for words in instructions("COPY") for word in words[:-1] if not word.startswith("--")]
    for path in copied:
        assert (ROOT / path).exists() and not ignored(path), path
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"pyproject.toml", "constraints.txt", "ray_distill", "train.py", "configs"} <= set(copied)
    assert {project["readme"], *project["license-files"]} <= set(copied)
    assert instructions("RUN") == [["pip", "install", "--no-cache-dir", "-c", "constraints.txt", "."]]
    for path in ("data/digits/0.mp4", "output/run.json", ".git/config", ".env", "ray_distill/__pycache__/x.pyc"):
        assert ignored(path), path


def test_the_image_is_not_roots() -> None:
    user = instructions("USER")[-1][0]
    assert user == "1000:100"
    assert all(f"--chown={user}" in words for words in instructions("COPY"))
    given = pods(KUBERAY[0])[0]["securityContext"]
    assert f"{given['runAsUser']}:{given['runAsGroup']}" == user
