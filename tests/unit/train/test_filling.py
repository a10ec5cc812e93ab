from types import SimpleNamespace

import pytest

from ray_distill.config import ConfigError
from ray_distill.train.driver import fit
from tests.unit.toys import run_config


@pytest.fixture
def filling_of(tmp_path, monkeypatch):
    """What is started on a cluster with so much: the CPUs that encoders are given."""

    class Filling:
        def __init__(self, source, models, cache, numbers, cpus, say):
            self.cpus, self.encoders = cpus, source.encoders

        def start(self):
            self.started = True

    monkeypatch.setattr(fit, "Filling", Filling)

    def filling_of(resources, waits=True, **given):
        monkeypatch.setattr(fit.ray, "cluster_resources", lambda: resources)
        stream = SimpleNamespace(waits=waits, cache=None, row_order=list)
        config = run_config(tmp_path, train__cpus_per_worker=0.75, data__stream=True, **given)
        return fit.filling_of(config, stream)

    return filling_of


def test_encoders_take_what_the_training_leaves(filling_of):
    filling = filling_of({"CPU": 4.0})  # two workers
    assert filling.started and filling.cpus == 2.5
    assert filling_of({"CPU": 1.0}).cpus == 1.0, "a cluster that has still to grow"
    assert filling_of({"CPU": 4.0}, waits=False) is None


def test_a_training_that_leaves_nothing_is_refused(filling_of):
    with pytest.raises(ConfigError, match=r"takes 1.5 of the cluster's 1.6 CPUs, and encoders beside it need 0.2"):
        filling_of({"CPU": 1.6})
    gpus = {"train__use_gpu": True, "data__encoder_gpus": 1}
    with pytest.raises(ConfigError, match=r"takes 2 of the cluster's 2 GPUs, and encoders beside it need 1; lower"):
        filling_of({"CPU": 16.0, "GPU": 2.0}, **gpus)
    assert filling_of({"CPU": 16.0, "GPU": 3.0}, **gpus).cpus == 14.5


def test_no_encoder_waits_for_a_gpu_of_the_training(filling_of):
    """It would have it before a worker that is started again."""
    gpus = {"train__use_gpu": True, "data__encoder_gpus": 0.5, "data__encoders": 8}
    assert filling_of({"CPU": 16.0, "GPU": 3.0}, **gpus).encoders == 2
    assert filling_of({"CPU": 16.0, "GPU": 8.0}, **gpus).encoders == 8
