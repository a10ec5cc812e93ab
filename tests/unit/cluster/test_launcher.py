"""cluster/aws.yaml and gcp.yaml against the schema and the defaults in Ray's wheel."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.unit.cluster.files import CHECKOUT, CLOUDS, document


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
