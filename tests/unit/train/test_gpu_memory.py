"""A run that cannot fit on the cluster's GPUs is refused before anything is prepared; others say what they need."""

import pytest
from diffusers import WanTransformer3DModel

from ray_distill.config import ConfigError
from ray_distill.plan.hardware import GIB
from ray_distill.train.driver import gpu_memory as room
from tests.tiny_wan import tiny_wan
from tests.unit.toys import run_config


@pytest.fixture
def config(tmp_path):
    described = dict(tiny_wan(0).config) | {"in_channels": 16, "out_channels": 16}  # as the published VAE makes them
    WanTransformer3DModel.from_config(described).save_pretrained(tmp_path / "model/transformer")
    return run_config(tmp_path)


def on(monkeypatch, memory):
    monkeypatch.setattr(room, "smallest_gpu", lambda: memory)


def test_what_lasts_and_is_more_than_a_gpu_has_is_refused(config, monkeypatch):
    on(monkeypatch, 100_000)
    with pytest.raises(
        ConfigError, match="weights, optimizer and averages alone take 0.0 GiB on each of 2 workers, and"
    ):
        room.check_room(config)


def test_what_fits_is_told(config, monkeypatch):
    on(monkeypatch, 80 * GIB)
    assert room.check_room(config).startswith("memory of a GPU: about ")


def test_what_is_only_estimated_to_be_too_much_is_a_warning(config, monkeypatch):
    on(monkeypatch, 1_200_000)
    assert room.check_room(config).startswith("warning: memory of a GPU")


def test_without_gpus_nothing_is_said(config, monkeypatch):
    on(monkeypatch, None)
    assert room.check_room(config) == ""


def test_a_run_that_plan_does_not_know_goes_on(config, monkeypatch):
    def unknown(config, memory):
        raise ValueError("the calls of a causal student are not planned yet")

    on(monkeypatch, GIB)
    monkeypatch.setattr(room, "room", unknown)
    assert "no plan of its memory: the calls of a causal student" in room.check_room(config)
