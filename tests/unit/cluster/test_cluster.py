"""The files of cluster/, against our configuration, the versions of this checkout, and each other.

None of them was run on a cluster: what is tested is what can be known without one.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import ray
from packaging.specifiers import SpecifierSet

import ray_distill
from ray_distill.config import RunConfig, load_config
from tests.unit.cluster.files import (
    CLOUDS,
    CLUSTER,
    ENTRIES,
    KUBERAY,
    ROOT,
    STORED,
    cluster_spec,
    commands,
    document,
    entrypoint,
    environment,
    header,
    in_checkout,
    instructions,
    pinned,
    pods,
)


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


# Dockerfile


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
