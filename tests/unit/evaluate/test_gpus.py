"""GPUs of a task that samples: how many it asks for, and a cluster that has no such node."""

import weakref

import pytest
import ray
import torch

from ray_distill.checkpoint.network import load_network
from ray_distill.config import ConfigError
from ray_distill.evaluate import generate, latents
from ray_distill.evaluate.samples import Candidate
from ray_distill.types import Sampler
from tests.tiny_wan import tiny_wan
from tests.unit.toys import run_config

SAMPLER = Sampler((1000.0, 500.0), "sde")


class Asked:
    """Ray's task decorator, which notes the GPUs of each task in place of running it, and the functions it wraps."""

    def __init__(self, gpus):
        self.gpus, self.wrapped = gpus, []

    def __call__(self, *function, **options):
        if function:
            self.wrapped += function
            return self
        return self.options(**options).__call__

    def options(self, **options):
        self.gpus.append(options["num_gpus"])
        return self

    def remote(self, *arguments):
        return arguments


@pytest.mark.parametrize(
    ("settings", "gpus", "tasks"), [({}, 0, 4), ({"train__use_gpu": True, "evaluate__gpus": 4}, 4, 2)]
)
def test_a_task_asks_for_the_gpus_of_the_configuration(tmp_path, monkeypatch, settings, gpus, tasks):
    asked = []
    made = object.__new__(generate.Generator)
    made._config, made.prompts, made._keep = run_config(tmp_path, evaluate__batch=1, **settings), ["a"] * 4, tmp_path
    made._rows = made._negative = made._pictures = None
    remote = Asked(asked)
    monkeypatch.setattr(generate.ray, "remote", remote)
    monkeypatch.setattr(generate.ray, "cluster_resources", lambda: {"CPU": 4.0, "GPU": 8.0})
    for seed in (0, 1):
        made.start(Candidate("student", SAMPLER), seed)
    assert remote.wrapped == [generate.generate]  # once, or Ray would start the tasks in no order
    assert len(made.start_features([Candidate("student", SAMPLER)], 0, range(4))) == tasks
    assert asked == [gpus, gpus, gpus]


@pytest.mark.parametrize(("nodes", "refused"), [((2, 2), True), ((2, 4), False), ((0, 0), False), ((), False)])
def test_a_cluster_without_such_a_node_is_refused(tmp_path, monkeypatch, nodes, refused):
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"GPU": float(n)}} for n in nodes])
    config = run_config(tmp_path, train__use_gpu=True, evaluate__gpus=4)
    if refused:
        with pytest.raises(ConfigError, match=r"evaluate\.gpus = 4: the largest node has 2 GPUs.*evaluate\.gpus=2"):
            generate.check_gpus(config)
    else:
        generate.check_gpus(config)
    generate.check_gpus(run_config(tmp_path, evaluate__gpus=4))  # CPUs sample


@pytest.mark.parametrize("init", ["pretrained", "random"])
def test_a_network_over_several_devices_has_its_weights_there(tmp_path, init):
    tiny_wan(0).save_pretrained(tmp_path / "model/transformer")
    config = run_config(tmp_path, roles__teacher__init=init)
    network = load_network(config, "teacher", None, devices=("cpu", "meta"))
    there = {name for name, parameter in network.named_parameters() if parameter.is_meta}
    assert there == {name for name, _ in network.named_parameters() if name.startswith("blocks.1.")}
    whole = load_network(run_config(tmp_path), "teacher", None)
    assert all(torch.equal(p, tiny_wan(0).get_parameter(name)) for name, p in whole.named_parameters())


def test_a_process_lets_its_networks_go_before_it_loads_others(tmp_path, monkeypatch):
    alive = []

    def load(*asked):
        assert not any(network() is not None for network in alive)
        network = tiny_wan(0)
        alive.append(weakref.ref(network))
        return network

    monkeypatch.setattr(latents, "load_network", load)
    monkeypatch.setattr(latents, "_last", {})
    cpu = torch.device("cpu")
    for role in ("student", "student", "teacher"):
        latents.denoiser(run_config(tmp_path), Candidate(role, SAMPLER), cpu)
    assert len(alive) == 2


def test_fewer_gpus_than_a_network_is_spread_over_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(latents.torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"evaluate\.gpus = 4: this process sees 1; set evaluate\.gpus=1"):
        config = run_config(tmp_path, train__use_gpu=True, evaluate__gpus=4)
        latents.denoiser(config, Candidate("student", SAMPLER), torch.device("cuda"))
