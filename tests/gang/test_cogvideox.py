"""CogVideoX is held and sharded as Wan is: every way equals one process without sharding."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from ray_distill.models.cogvideox.network import CogVideoXDenoiser
from tests.gang import jobs
from tests.gang.gang import Gang
from tests.gang.test_engines import ADAPTERS, TOLERANCE, assert_moved, distance

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import tiny_cogvideox

STEPS = 4
WHOLE = jobs.Case(zero=0, frozen_zero=0, micro_batch=8)
SEPARATE = replace(WHOLE, lora=ADAPTERS, same_weights=True)


def tiny(seed: int) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return tiny_cogvideox.make_transformer()


def run(rank: int, world: int, case: jobs.Case) -> dict:
    text = (tiny_cogvideox.TOKENS, tiny_cogvideox.WIDTH)
    family = {"tiny_wan": tiny, "WanDenoiser": CogVideoXDenoiser, "SHAPE": (4, 3, 4, 4), "TEXT": text}
    with patch.multiple(jobs, **family):
        return jobs.run(rank, world, case, STEPS) | {"start": jobs.initial(case)}


@pytest.mark.parametrize(
    ("alone", "case"),
    [
        (WHOLE, replace(WHOLE, zero=3, frozen_zero=3, micro_batch=4, gradient_checkpointing=True)),
        pytest.param(
            SEPARATE,
            replace(SEPARATE, zero=2, frozen_zero=3, micro_batch=2, shared_base=True),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["zero3", "shared"],
)
def test_sharded_and_on_a_shared_base_it_equals_one_process(gang: Gang, alone: jobs.Case, case: jobs.Case) -> None:
    (reference,) = gang.run(run, alone, world=1)
    assert_moved(reference, reference["start"])
    for result in gang.run(run, case, world=2):
        assert distance(result, reference) < TOLERANCE
        assert result["frozen"][0] == result["frozen"][1]
