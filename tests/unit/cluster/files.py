"""Readers of the files in cluster/."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
CLUSTER = ROOT / "cluster"
KUBERAY = ("kuberay/raycluster.yaml", "kuberay/rayjob.yaml")
CLOUDS = ("aws.yaml", "gcp.yaml")
STORED = ("kuberay/storage.yaml",)
ENTRIES = (*KUBERAY, *CLOUDS, "slurm.sh")
CHECKOUT = "/home/ray/ray_distill"  # where the image and the cluster launcher put it


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


def instructions(keyword: str) -> list[list[str]]:
    lines = (CLUSTER / "Dockerfile").read_text().splitlines()
    return [line.split()[1:] for line in lines if line.startswith(f"{keyword} ")]
