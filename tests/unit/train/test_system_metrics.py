"""The sampler on this machine and on machines with GPUs, and the driver's side of it on a cluster that changes."""

import subprocess
import sys
import threading
import types

import pytest
import ray

from ray_distill.train.driver import system_metrics as module
from ray_distill.train.driver.system_metrics import Nodes, Sampler, ray_job


def test_a_machine_is_sampled_under_mlflow_s_names():
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    names: set[str] = set()
    for monitor in (CPUMonitor(), DiskMonitor(), NetworkMonitor()):
        monitor.collect_metrics()
        names |= set(monitor.metrics)
    values = Sampler().sample()
    assert {name for name in values if not name.startswith("gpu_")} == names
    assert 0 < values["system_memory_usage_percentage"] <= 100 and values["disk_available_megabytes"] > 0


@pytest.fixture
def nvml(monkeypatch):
    """NVML on a machine with two GPUs, of which the second knows no power limit."""

    class NVMLError(Exception):
        pass

    def limit(gpu):
        if gpu:
            raise NVMLError("not supported")
        return 700_000

    fake = types.SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetUtilizationRates=lambda gpu: types.SimpleNamespace(gpu=90 + gpu),
        nvmlDeviceGetMemoryInfo=lambda gpu: types.SimpleNamespace(used=20e9, total=80e9),
        nvmlDeviceGetPowerUsage=lambda gpu: 350_000,
        nvmlDeviceGetEnforcedPowerLimit=limit,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)


def test_gpus_are_sampled_each_as_far_as_it_tells(nvml):
    values = {name: value for name, value in Sampler().sample().items() if name.startswith("gpu_")}
    one = {
        "gpu_0_utilization_percentage": 90,
        "gpu_0_memory_usage_megabytes": 20_000,
        "gpu_0_memory_usage_percentage": 25,
        "gpu_0_power_usage_watts": 350,
        "gpu_0_power_usage_percentage": 50,
    }
    other = {name.replace("gpu_0", "gpu_1"): value for name, value in one.items()}
    del other["gpu_1_power_usage_percentage"]
    assert values == one | other | {"gpu_1_utilization_percentage": 91}


DRIVER, A, B = (letter * 56 for letter in "dab")  # node ids are 28 bytes


class Cluster:
    """What ``Nodes`` sees of Ray: hosts by node id, and answers that come when they are let through."""

    def __init__(self, hosts, client=False):
        self.util = types.SimpleNamespace(client=types.SimpleNamespace(ray=self))
        self.is_connected = lambda: client
        self.hosts, self.dead, self.silent, self.killed = hosts, set(), set(), []
        self.exceptions = types.SimpleNamespace(RayError=RuntimeError)

    def is_initialized(self):
        return True

    def nodes(self):
        return [{"NodeID": n, "NodeManagerHostname": h, "Alive": n not in self.dead} for n, h in self.hosts.items()]

    def get_runtime_context(self):
        return types.SimpleNamespace(get_node_id=lambda: DRIVER)

    def remote(self, _):
        return self

    def options(self, num_cpus, scheduling_strategy):
        assert num_cpus == 0 and not scheduling_strategy.soft
        node, count = scheduling_strategy.node_id, iter(range(1000))

        def start():
            remote = types.SimpleNamespace(remote=lambda: (node, next(count)))
            return types.SimpleNamespace(node=node, sample=remote)

        return types.SimpleNamespace(remote=start)

    def wait(self, refs, num_returns, timeout):
        assert timeout == 0 and num_returns == len(refs)
        done = [ref for ref in refs if ref[0] not in self.silent]
        return done, [ref for ref in refs if ref not in done]

    def get(self, ref):
        if ref[0] in self.dead:
            raise RuntimeError("the actor died")
        return {"load": float(ref[1])}

    def kill(self, actor):
        self.killed.append(actor.node)


class Here:
    """A sampler in the driver's own process."""

    def __init__(self):
        self.count = iter(range(1000))

    def sample(self):
        return {"load": float(next(self.count))}


@pytest.mark.parametrize("client", [False, True])
def test_nodes_come_and_go(client, monkeypatch):
    """The driver's own needs no actor, unless the driver is a client on another machine."""
    cluster = Cluster({A: "worker-1", DRIVER: "head"}, client)
    monkeypatch.setattr(module, "ray", cluster)
    monkeypatch.setattr(module, "Sampler", Here)
    nodes = Nodes()
    assert nodes.poll() == {}  # asked, and not waited for
    assert nodes.names == {"node_0": "head", "node_1": "worker-1"}
    assert nodes.poll() == {"node_0/load": 0, "node_1/load": 0}
    cluster.silent.add(A)
    cluster.hosts[B] = "worker-2"
    assert nodes.poll() == {"node_0/load": 1}
    assert nodes.poll() == {"node_0/load": 2, "node_2/load": 0}
    cluster.silent.clear()
    assert nodes.poll()["node_1/load"] == 1  # asked once, however long it was silent
    cluster.dead.add(A)
    for _ in range(2):
        assert "node_1/load" not in nodes.poll()
    nodes.stop()
    assert sorted(cluster.killed) == ([B, DRIVER] if client else [B])


def test_watching_sends_and_ends(monkeypatch):
    cluster = Cluster({DRIVER: "head"})
    monkeypatch.setattr(module, "ray", cluster)
    monkeypatch.setattr(module, "Sampler", Here)
    sent, told, twice = [], [], threading.Event()

    def send(values):
        sent.append(values)
        if len(sent) == 2:
            twice.set()

    with module.watch_nodes(send, told.append, every_s=0.01):
        assert twice.wait(10)
    for thread in [thread for thread in threading.enumerate() if thread.name == "nodes"]:
        thread.join(10)  # the block waits for it as long as for a round, here a hundredth of a second
    assert sent[:2] == [{"node_0/load": 0}, {"node_0/load": 1}] and told == [{"node_0": "head"}]
    assert cluster.killed == []


def test_a_ray_that_is_lost_costs_a_warning(monkeypatch, caplog):
    cluster = Cluster({DRIVER: "head"})
    cluster.nodes = lambda: 1 / 0
    monkeypatch.setattr(module, "ray", cluster)
    with module.watch_nodes(print, print):
        pass
    assert "no more system metrics: ZeroDivisionError" in caplog.text


def test_watching_starts_no_ray_of_its_own():
    with module.watch_nodes(print, print):
        pass
    assert not ray.is_initialized()


def test_the_job_of_ray_job_submit_is_named(monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "raysubmit_1"}}')
    assert ray_job() == "raysubmit_1"


def test_it_is_light_to_import():
    code = (
        "import sys, ray_distill.train.driver.system_metrics; print({'torch', 'mlflow', 'pandas'} & set(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
