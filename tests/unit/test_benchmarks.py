"""The conditions of peers that benchmarks/step.py takes."""

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.step import LIKE, settings
from ray_distill.config import load_config

ROOT = Path(__file__).parents[2]
QUICK = ["data.manifest=none", f"model.path={ROOT / 'examples/digits_teacher'}"]


def configured(like, given):
    overrides = [*QUICK, *settings(like, 2, given)]
    return load_config(ROOT / "configs/quickstart.yaml", overrides, environment={}).config


@pytest.mark.parametrize(("like", "fake_scores", "steps"), [("fastgen", 4, 4), ("fastvideo", 5, 3)])
def test_a_peers_cycle_has_its_updates_and_steps(like, fake_scores, steps):
    config = configured(like, [])
    updates = Counter(u.role for step in range(config.method.student_interval) for u in config.method.updates(step))
    assert updates == {"fake_score": fake_scores, "student": 1}
    assert len(config.method.timesteps) == steps and config.method.teacher_guidance > 1
    assert config.method.backward_simulation == (like == "fastvideo")
    assert config.data.frames == 9 and config.train.global_batch == 32


@pytest.mark.parametrize("like", LIKE)
def test_a_network_of_ones_own_gets_the_peers_sizes(like):
    config = configured(like, [QUICK[1]])
    assert (config.data.frames, config.data.height, config.data.width) == (81, 480, 832)
    assert config.train.micro_batch == 1 and config.train.global_batch == 2
    assert {config.role(role).dtype for role in config.method.roles} == {"bfloat16"}
    assert configured(like, [QUICK[1], "data.frames=9"]).data.frames == 9


def test_without_a_peer_the_quick_start_is_measured():
    assert (
        configured(None, []).dump()["method"]
        == load_config(ROOT / "configs/quickstart.yaml", QUICK, environment={}).config.dump()["method"]
    )
