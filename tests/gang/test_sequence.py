"""Ranks that share clips train as ranks with clips of their own: data x sequence ranks against data ranks alone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from ray_distill.methods import DMD, GAN, LCM, DCMFine, SelfForcing
from ray_distill.models import features
from ray_distill.models.lora import LoRA
from ray_distill.models.sequence import Ranks, make_ranks, split
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.models.wan.sequence import exchange_heads
from tests.gang import jobs
from tests.gang.gang import Gang
from tests.tiny_wan import SHAPE, TEXT, tiny_wan

slow = pytest.mark.slow
DMD_EACH = DMD(student_interval=1, teacher_guidance=2.0)
GANS = GAN(student_interval=1, teacher_guidance=2.0, gan_weight=0.5, gan_r1_weight=0.1)
FORCING = SelfForcing(num_frame_per_block=1, same_step_across_blocks=False, student_interval=1, teacher_guidance=2.0)
ADAPTERS = LoRA(rank=4, alpha=8)
EXPERT = LoRA(rank=4, alpha=8, whole=("condition_embedder", "scale_shift_table", "proj_out"))
CASES = {
    "dmd-2": jobs.Case(method=DMD_EACH),
    "dmd-0": jobs.Case(method=DMD_EACH, zero=0, frozen_zero=0),
    "dmd-1": jobs.Case(method=DMD_EACH, zero=1),
    "dmd-3-checkpointed": jobs.Case(method=DMD_EACH, zero=3, gradient_checkpointing=True),
    "gan-2": jobs.Case(method=GANS),
    "gan-own-3": jobs.Case(method=replace(GANS, gan_features="fake_score", gan_trunk_weight=0.1), zero=3),
    "dcm-fine-3": jobs.Case(method=DCMFine(shift=3.0, target_decay=0.9, discriminator_stride=1), lora=EXPERT, zero=3),
    "self-forcing-2": jobs.Case(method=FORCING),
    "self-forcing-3-checkpointed": jobs.Case(method=FORCING, zero=3, gradient_checkpointing=True),
    "lcm-2": jobs.Case(method=LCM()),
    "adapters-int8": jobs.Case(
        method=DMD_EACH, lora=ADAPTERS, base_precision="int8", zero=1, gradient_checkpointing=True
    ),
    "shared-base-3": jobs.Case(method=DMD_EACH, lora=ADAPTERS, same_weights=True, shared_base=True),
}
QUICK = "dmd-2"


def moments(result: dict[str, Any]) -> dict[str, torch.Tensor]:
    """First moments of AdamW: unlike weights they show a factor in a gradient."""
    return {name: t for name, t in result["tensors"].items() if "/exp_avg/" in name}


def largest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys() and a
    return max(float((a[name] - b[name]).abs().max() / (b[name].abs().max() + 1e-6)) for name in a)


def assert_shared(results: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    """``results`` of ranks that share clips are that of a rank with clips of its own."""
    for result in results:
        assert largest(moments(result), moments(alone)) < 1e-4
        for key, value in alone["logs"].items():
            if key.endswith("_grad_norm"):
                assert result["logs"][key] == pytest.approx(value, rel=1e-5), key
        assert result["frozen"][0] == result["frozen"][1]
        assert result["tensors"].keys() == alone["tensors"].keys()
        assert all(torch.equal(t, results[0]["tensors"][n]) for n, t in result["tensors"].items())


@pytest.mark.parametrize("name", [name if name == QUICK else pytest.param(name, marks=slow) for name in CASES])
def test_two_data_ranks_of_two_sequence_ranks_are_two_data_ranks(gang: Gang, name: str) -> None:
    """Moments and gradient norms after two steps, in five digits; and every rank agrees bit for bit."""
    case = replace(CASES[name], micro_batch=4)
    alone = gang.run(jobs.run, case, 2, world=2)[0]
    assert_shared(gang.run(jobs.run, replace(case, sequence=2), 2, world=4), alone)


@slow
def test_a_checkpoint_goes_on_with_another_number_of_sequence_ranks(gang: Gang, tmp_path: Path) -> None:
    """Written by 2 x 2 ranks under ZeRO-3, read by two ranks with clips of their own under ZeRO-2, and back."""
    case = jobs.Case(method=DMD_EACH, micro_batch=4)
    shared, apart = replace(case, zero=3, sequence=2), replace(case, zero=2)
    straight = gang.run(jobs.run, apart, 3, world=2)[0]
    gang.run(jobs.run, shared, 2, None, None, 0, str(tmp_path / "a"), 2, world=4)
    resumed = gang.run(jobs.run, apart, 3, None, str(tmp_path / "a"), 2, world=2)[0]
    gang.run(jobs.run, apart, 2, None, None, 0, str(tmp_path / "b"), 2, world=2)
    back = gang.run(jobs.run, shared, 3, None, str(tmp_path / "b"), 2, world=4)[0]
    for result in (resumed, back):
        assert largest(moments(result), moments(straight)) < 1e-4
        assert result["state"] == straight["state"]
        for key in ("student_grad_norm", "fake_score_grad_norm"):
            assert result["logs"][key] == pytest.approx(straight["logs"][key], rel=2e-6)


def own_chunk(ranks: Ranks, x: Tensor) -> Tensor:
    """A gather whose backward takes this rank's piece, without a sum."""
    pieces = [torch.empty_like(x) for _ in range(ranks.size)]
    dist.all_gather(pieces, x.detach().contiguous(), ranks.group)
    pieces[ranks.rank] = x
    return torch.cat(pieces, 1)


def faulty(rank: int, world: int, case: jobs.Case, fault: str) -> dict[str, Any]:
    """Two steps with a planted fault."""
    if fault == "loss-times-ranks":
        return jobs.run(rank, world, case, 2, partial(jobs.scale_by, float(case.sequence)))
    where, name, wrong = {
        "own-chunk": (Ranks, "gather", own_chunk),
        "local-features": (features, "ranks_of", lambda network: None),
    }[fault]
    with patch.object(where, name, wrong):
        return jobs.run(rank, world, case, 2)


@slow
@pytest.mark.parametrize("fault", ["own-chunk", "local-features", "loss-times-ranks"])
def test_a_planted_fault_is_seen(gang: Gang, fault: str) -> None:
    """In the moments: weights after AdamW's first steps hide a factor. Of heads, that stand after a gather, too."""
    case = replace(CASES["gan-2"], micro_batch=4, clip_norm=0.0)
    alone = gang.run(jobs.run, case, 2, world=2)[0]
    result = gang.run(faulty, replace(case, sequence=2), fault, world=4)[0]
    assert largest(moments(result), moments(alone)) > 0.1


def predictions(rank: int, world: int, compiled: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(whole fp32, whole bf16, shared bf16, shared fp32) velocities of ``world`` ranks that share clips; the last by
    compiled blocks where asked for."""
    ranks = make_ranks(world, timeout_s=60)
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    text = torch.randn(2, *TEXT, generator=torch.Generator().manual_seed(1))
    made = []
    for share, dtype in (
        (None, torch.float32),
        (None, torch.bfloat16),
        (ranks, torch.bfloat16),
        (ranks, torch.float32),
    ):
        network = tiny_wan(0).to(dtype)
        split(network, share, exchange_heads)
        if compiled and share is not None and dtype == torch.float32:
            network.compile_repeated_blocks(backend="aot_eager", fullgraph=True)
        velocity = WanDenoiser(network, dtype)(x, torch.tensor([0.3, 0.7]), {"text": text}).velocity
        velocity.square().mean().backward()
        made.append(torch.cat([velocity.detach().flatten(), network.proj_out.weight.grad.float().flatten()]))
    return tuple(made)


@slow
@pytest.mark.parametrize("compiled", [False, True])
def test_bf16_is_no_further_from_fp32_than_the_whole_network_and_blocks_compile(gang: Gang, compiled: bool) -> None:
    results = gang.run(predictions, compiled, world=2)
    whole, own, shared, exact = (torch.stack(each).mean(0) for each in zip(*results, strict=True))
    torch.testing.assert_close(exact, whole, rtol=0, atol=1e-5)
    assert (shared - whole).norm() < 1.2 * (own - whole).norm()
