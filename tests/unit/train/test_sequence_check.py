"""Clips that cannot be shared by so many workers are refused before anything starts, with the numbers that can."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest

from ray_distill.config import ConfigError, RunConfig
from ray_distill.config.sequence import check_heads, check_tokens
from ray_distill.models import family
from ray_distill.train.driver.checks.sequence import check_nodes
from tests.tiny_wan import tiny_wan
from tests.unit.toys import run_config

CAUSAL = {"name": "self_forcing", "num_frame_per_block": 1}


@pytest.fixture
def config(tmp_path: Any) -> Any:
    tiny_wan(0).save_pretrained(tmp_path / "model/transformer")

    def make(shared: int, workers: int = 12, **more: Any) -> RunConfig:
        train = {"steps": 8, "workers": workers, "global_batch": 24, "micro_batch": 1, "sequence_parallel": shared}
        return run_config(tmp_path, train=train | more.pop("train", {}), **more)

    return make


def test_heads_of_every_network_divide(config: Any) -> None:
    check_heads(config(1))
    check_heads(config(2))
    with pytest.raises(
        ConfigError, match=r"sequence_parallel = 4: student has 2 attention heads.* use one of 1, 2, which divide"
    ):
        check_heads(config(4))


def test_heads_that_a_folder_leaves_to_its_class_divide(config: Any, tmp_path: Any) -> None:
    """Wan has 40 heads where config.json names no number."""
    path = tmp_path / "model/transformer/config.json"
    described = json.loads(path.read_text())
    del described["num_attention_heads"]
    path.write_text(json.dumps(described))
    check_heads(config(4))
    with pytest.raises(ConfigError, match="student has 40 attention heads"):
        check_heads(config(3))


def test_a_family_without_the_exchange_is_refused(config: Any) -> None:
    without = replace(family("wan"), exchange_heads=None)
    with patch("ray_distill.config.sequence.family", lambda name: without):
        check_heads(config(1))
        with pytest.raises(
            ConfigError, match=r"sequence_parallel = 2: family 'wan' cannot exchange.* use 1, and ZeRO-3"
        ):
            check_heads(config(2))


def test_rollouts_that_go_on_from_step_to_step_share_no_clips(config: Any) -> None:
    streamed = CAUSAL | {"num_training_frames": 3, "window": 3, "rollout_frames": 6, "rollout_overlap": 1}
    check_heads(config(1, method=streamed))
    with pytest.raises(ConfigError, match="sequence_parallel = 2: with method.rollout_overlap .* use 1, or remove"):
        check_heads(config(2, method=streamed))


def test_tokens_of_every_clip_and_chunk_divide(config: Any) -> None:
    """Latents of 3 x 6 x 4 are 3 x 3 x 2 = 18 tokens, a frame of them 6."""
    for shared in (1, 2, 3, 6):
        check_tokens(config(shared), [(4, 3, 6, 4)])
    message = r"clips of latents 3x6x4 have 18 tokens; with 12 workers use one of 1, 2, 3, 6, which divide this number"
    with pytest.raises(ConfigError, match=message):
        check_tokens(config(4), [(4, 1, 4, 8), (4, 3, 6, 4)])
    message = r"chunks of 1 frames in clips of latents 4x2x6 have 3 tokens; .* use one of 1, 3, which divide"
    with pytest.raises(ConfigError, match=message):
        check_tokens(config(2, method=CAUSAL), [(4, 4, 2, 6)])
    check_tokens(config(2), [(4, 4, 2, 6)])


def test_nodes_hold_whole_groups_or_it_is_said(config: Any) -> None:
    few = {"CPU": 3.0}
    assert check_nodes(config(1), [few]) == ""
    assert check_nodes(config(2), [{"CPU": 4.0}, {"CPU": 8.0}]) == ""
    assert "a node has room for 3 workers" in check_nodes(config(2), [few] * 4)
    elastic = config(2, train={"min_workers": 4, "workers": 8, "global_batch": 24, "micro_batch": 1})
    assert check_nodes(elastic, [{"CPU": 4.0}]) == ""
    with pytest.raises(ConfigError, match=r"room for 3 workers.*could be split up; remove train.min_workers"):
        check_nodes(elastic, [few, few])
    on_gpus = config(2, train={"use_gpu": True})
    assert check_nodes(on_gpus, [{"CPU": 3.0, "GPU": 2.0}] * 6) == ""
    assert "room for 1 workers" in check_nodes(on_gpus, [{"CPU": 1.0, "GPU": 2.0}])
