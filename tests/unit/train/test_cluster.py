"""A Ray on this machine alone gets an environment of its own; a cluster's is its owner's."""

import os

import pytest
import ray

from ray_distill.train.driver.cluster import ALONE, cluster

PATIENCE, WATCH = ALONE


@pytest.fixture
def started(monkeypatch):
    """What the environment was as Ray started or was joined."""
    for name in ALONE:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    seen = []
    monkeypatch.setattr(ray, "init", lambda **settings: seen.append({name: os.environ.get(name) for name in ALONE}))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return seen


def test_a_ray_of_our_own_keeps_its_workers_and_watches_no_other_node(started, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv(PATIENCE, "5000")  # the user's own
    with cluster():
        pass
    assert started == [{PATIENCE: "5000", WATCH: "0"}]


def test_a_cluster_that_is_joined_watches_its_nodes(started, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with cluster():
        pass
    assert started == [{PATIENCE: None, WATCH: None}]
