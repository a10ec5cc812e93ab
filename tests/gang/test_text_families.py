"""CogVideoX and HunyuanVideo 1.5 are held and sharded as Wan is: every way equals one process without sharding."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from ray_distill.models import family
from ray_distill.models.conditions import MASK
from ray_distill.types import Batch
from tests.gang import jobs
from tests.gang.gang import Gang
from tests.gang.test_engines import ADAPTERS, TOLERANCE, assert_moved, distance

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import tiny_cogvideox
import tiny_hunyuan15

STEPS = 4
WHOLE = jobs.Case(zero=0, frozen_zero=0, micro_batch=8)
SEPARATE = replace(WHOLE, lora=ADAPTERS, same_weights=True)
ZERO3 = replace(WHOLE, zero=3, frozen_zero=3, micro_batch=4, gradient_checkpointing=True)
SHARED = replace(SEPARATE, zero=2, frozen_zero=3, micro_batch=2, shared_base=True)
EXAMPLES = {
    "cogvideox": (tiny_cogvideox.make_transformer, (4, 3, 4, 4), (tiny_cogvideox.TOKENS, tiny_cogvideox.WIDTH)),
    "hunyuan15": (tiny_hunyuan15.make_transformer, (8, 3, 4, 4), (5, tiny_hunyuan15.WIDTH)),
}


def drawn(make: Callable[[], torch.nn.Module], seed: int) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def with_masks(batch: Batch) -> Batch:
    """The batch with all of its text valid, and of quoted words the first of two tokens."""
    rows, most = batch.cond["text"].shape[:2]
    more = {
        f"text{MASK}": torch.ones(rows, most, dtype=torch.bool),
        "glyphs": torch.ones(rows, 2, tiny_hunyuan15.GLYPHS),
    }
    more[f"glyphs{MASK}"] = torch.tensor([[True, False]]).expand(rows, 2)
    return replace(batch, cond={**batch.cond, **more}, uncond={**batch.uncond, **more})


def run(rank: int, world: int, name: str, case: jobs.Case) -> dict:
    make, shape, text = EXAMPLES[name]
    plain = jobs.micro_batches
    changes = {"tiny_wan": lambda seed: drawn(make, seed), "WanDenoiser": family(name).denoiser}
    changes |= {"SHAPE": shape, "TEXT": text, "micro_batches": lambda *given: [*map(with_masks, plain(*given))]}
    with patch.multiple(jobs, **changes):
        return jobs.run(rank, world, case, STEPS) | {"start": jobs.initial(case)}


@pytest.mark.parametrize(
    ("name", "alone", "case"),
    [
        ("cogvideox", WHOLE, ZERO3),
        pytest.param("cogvideox", SEPARATE, SHARED, marks=pytest.mark.slow),
        pytest.param("hunyuan15", WHOLE, ZERO3, marks=pytest.mark.slow),
        pytest.param("hunyuan15", SEPARATE, SHARED, marks=pytest.mark.slow),
    ],
)
def test_sharded_and_on_a_shared_base_it_equals_one_process(
    gang: Gang, name: str, alone: jobs.Case, case: jobs.Case
) -> None:
    (reference,) = gang.run(run, name, alone, world=1)
    assert_moved(reference, reference["start"])
    for result in gang.run(run, name, case, world=2):
        assert distance(result, reference) < TOLERANCE
        assert result["frozen"][0] == result["frozen"][1]
